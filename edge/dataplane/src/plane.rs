//! The edge as a whole: its worker, and the handle that Python holds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use weirgate_shared::access_log::AccessLog;
use weirgate_shared::balance::Random;
use weirgate_shared::bootstrap::{Bootstrap, inherited};
use weirgate_shared::clock;
use weirgate_shared::deadline::{Deadlines, TICK_MS};
use weirgate_shared::endpoint::EndpointRegistry;
use weirgate_shared::endpoint_report::{EndpointReport, parse_reports};
use weirgate_shared::load_page::LoadPage;
use weirgate_shared::metrics::Families;
use weirgate_shared::net::adopt;
use weirgate_shared::places::{PlaceBoard, Places};
use weirgate_shared::poll_thread::PollThread;
use weirgate_shared::rate_table::RateTable;
use weirgate_shared::shun_list::ShunError;
use weirgate_shared::snapshot::{Logs, Snapshot, SnapshotError};
use weirgate_shared::succession::PlaceRecord;
use weirgate_shared::worker::{Worker, WorkerError, WorkerThread};

use crate::acceptor::Acceptor;
use crate::admit::Gate;
use crate::config::{Config, Side};
use crate::datagrams::Datagrams;
use crate::handoff::Gateways;
use crate::insight;
use crate::listener::{Commons, Listeners, Slot};
use crate::succession::Threads;
use crate::{proxy, streams};

/// A task that accepts, until this is dropped.
struct Accepting(AbortHandle);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The worker that relays: everything lives on one thread.
pub(crate) struct Edge {
    name: String,
    config: RefCell<Config>,
    prepared: RefCell<Option<(Config, Rc<AccessLog>)>>,
    snapshot: RefCell<Arc<Snapshot>>,
    generation: Cell<u64>,
    registry: EndpointRegistry,
    pub(crate) deadlines: Deadlines,
    pub(crate) random: Random,
    log: RefCell<Rc<AccessLog>>,
    listeners: RefCell<Listeners<Accepting>>,
    commons: Arc<Commons>,
    /// The thread that hands over.
    pub(crate) acceptor: Arc<PollThread<Acceptor>>,
    streams: Rc<Cell<u64>>,
    /// Places in limits that connections handed over still hold.
    lent: Rc<Cell<u64>>,
    ticks: Cell<u64>,
    draining_until_ms: Cell<Option<u64>>,
    pub(crate) closing: Cell<bool>,
}

/// How often it is asked whether a gateway has ended that held lent places.
const FORGET_TICKS: u64 = 10;

/// Counts one for as long as it lives: a relayed stream, or a place that is lent.
pub(crate) struct Live(Rc<Cell<u64>>);

impl Live {
    fn counted(count: &Rc<Cell<u64>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Edge {
    fn build(
        name: String,
        reports: BTreeMap<String, EndpointReport>,
        snapshot: Arc<Snapshot>,
        commons: Arc<Commons>,
        acceptor: Arc<PollThread<Acceptor>>,
    ) -> Result<Rc<Self>, String> {
        let registry = EndpointRegistry::default();
        registry.apply(reports);
        let config = Config::build(&snapshot, &registry, Side::Relayed).map_err(|error| error.to_string())?;
        let log = open_log(&snapshot.logs, None)?;
        let mut listeners = Listeners::default();
        listeners.pause();
        Ok(Rc::new(Self {
            name,
            config: RefCell::new(config),
            prepared: RefCell::default(),
            snapshot: RefCell::new(snapshot),
            generation: Cell::default(),
            registry,
            deadlines: Deadlines::default(),
            random: Random::seeded(clock::monotonic_us()),
            log: RefCell::new(log),
            listeners: RefCell::new(listeners),
            commons,
            acceptor,
            streams: Rc::default(),
            lent: Rc::default(),
            ticks: Cell::default(),
            draining_until_ms: Cell::new(None),
            closing: Cell::new(false),
        }))
    }

    /// Read a snapshot without putting it in force. `elsewhere` = the sockets of the other thread.
    fn prepare(&self, snapshot: &Snapshot, elsewhere: &[String]) -> Result<(), String> {
        let config = Config::build(snapshot, &self.registry, Side::Relayed).map_err(|error| error.to_string())?;
        self.listeners.borrow().check(&config, &self.commons, elsewhere)?;
        let log = open_log(&snapshot.logs, Some(&self.log()))?;
        *self.prepared.borrow_mut() = Some((config, log));
        Ok(())
    }

    /// Put the prepared snapshot in force.
    fn commit(self: &Rc<Self>, snapshot: Arc<Snapshot>, generation: u64) -> Result<(), String> {
        let Some((config, log)) = self.prepared.borrow_mut().take() else { return Ok(()) };
        *self.log.borrow_mut() = log;
        *self.config.borrow_mut() = config;
        *self.snapshot.borrow_mut() = snapshot;
        self.generation.set(generation);
        let config = self.config.borrow();
        let mut listeners = self.listeners.borrow_mut();
        config.pools.iter().for_each(|pool| pool.queue.follow(pool));
        listeners.release(&config, &self.commons);
        listeners.follow(&config, &self.commons, |slot| self.accept_from(slot))
    }

    fn accept_from(self: &Rc<Self>, slot: &Rc<Slot>) -> std::io::Result<Accepting> {
        let task = proxy::serve(Rc::clone(self), Rc::clone(slot), slot.socket.try_clone()?);
        Ok(Accepting(tokio::task::spawn_local(task).abort_handle()))
    }

    /// Accept.
    pub(crate) fn resume(self: &Rc<Self>) -> Result<(), String> {
        self.listeners.borrow_mut().resume(|slot| self.accept_from(slot))
    }

    /// Do not, so that a successor can.
    pub(crate) fn pause(&self) {
        self.listeners.borrow_mut().pause();
    }

    /// Hold places of connections that the predecessor had handed over, until their end is told.
    pub(crate) fn inherit(self: &Rc<Self>, lent: Vec<(PlaceRecord, oneshot::Receiver<()>)>) {
        for (record, given_back) in lent {
            let Some(slot) = self.listeners.borrow().slot(record.listener) else { continue };
            let held = (slot.readmit(record.source), self.lend());
            tokio::task::spawn_local(async move {
                let _ = given_back.await;
                drop(held);
            });
        }
    }

    /// Take over what the supervisor knows, and end the streams that this ends.
    fn set_endpoints(&self, reports: BTreeMap<String, EndpointReport>) {
        let config = self.config.borrow();
        for endpoint in self.registry.apply(reports) {
            if let Some(pool) = config.pools.iter().find(|pool| pool.settings.name == endpoint.pool) {
                streams::endpoint_fell(&self.deadlines, pool.settings.on_down, &endpoint);
            }
        }
    }

    pub(crate) fn log(&self) -> Rc<AccessLog> {
        Rc::clone(&self.log.borrow())
    }

    pub(crate) fn enter(&self) -> Live {
        Live::counted(&self.streams)
    }

    /// A connection that was handed over keeps its place here.
    pub(crate) fn lend(&self) -> Live {
        Live::counted(&self.lent)
    }

    fn drain(&self, deadline_ms: u64) {
        // Never early: the coarse clock may be one tick behind. A second order cannot make it later.
        let deadline = clock::coarse_ms() + TICK_MS + deadline_ms;
        self.draining_until_ms.set(Some(self.draining_until_ms.get().map_or(deadline, |known| known.min(deadline))));
        self.listeners.borrow_mut().stop();
    }

    fn status(&self, mut sockets: Vec<Value>, handoffs: u64, other: Elsewhere, mut endpoints: Vec<Value>) -> Vec<u8> {
        sockets.extend(self.listeners.borrow().status());
        endpoints.extend(self.config.borrow().endpoint_status());
        let endpoints = insight::one_each(endpoints);
        let draining = self.draining_until_ms.get().is_some();
        let connections = self.streams.get() + other.sessions;
        json!({
            "name": self.name, "generation": self.generation.get(), "ready": !draining, "draining": draining, "standby": other.standby,
            "drained": draining && connections == 0 && !other.busy, "connections": connections,
            "handoffs_total": handoffs, "listeners": sockets, "endpoints": endpoints,
        })
        .to_string()
        .into_bytes()
    }

    fn metrics(&self, mut families: Families, other_lost: u64) -> Vec<u8> {
        insight::listener_metrics(&mut families, self.listeners.borrow().stats());
        insight::stream_metrics(&mut families, self.listeners.borrow().stats());
        let config = self.config.borrow();
        let queues = config.pools.iter().filter(|pool| pool.settings.max_connections != 0);
        insight::queue_metrics(&mut families, &queues.map(|pool| (pool.settings.name.as_str(), &*pool.queue)));
        insight::log_metrics(&mut families, &self.name, other_lost + self.log.borrow().lost());
        families.into_json()
    }
}

/// What the other threads do.
#[derive(Clone, Copy)]
struct Elsewhere {
    sessions: u64,
    /// Connections wait to be handed over, or could still come to.
    busy: bool,
    standby: bool,
}

pub(crate) fn open_log(settings: &Logs, current: Option<&Rc<AccessLog>>) -> Result<Rc<AccessLog>, String> {
    AccessLog::open(settings, current).map_err(|error| format!("access log: {error}"))
}

impl Worker for Edge {
    fn start(self: &Rc<Self>) {}

    fn tick(&self) {
        self.deadlines.scan();
        self.log.borrow().flush();
        // An endpoint may have come up, or its ejection may be over.
        self.config.borrow().pools.iter().for_each(|pool| pool.queue.tell_freed());
        self.ticks.set(self.ticks.get() + 1);
        if self.lent.get() > 0 && self.ticks.get().is_multiple_of(FORGET_TICKS) {
            let _ = self.acceptor.post(Acceptor::forget_dead);
        }
        if self.draining_until_ms.get().is_some_and(|deadline| clock::coarse_ms() >= deadline) {
            self.closing.set(true);
            self.deadlines.expire(None);
        }
    }
}

/// The edge data plane of a process: one thread hands connections over, one relays streams, one datagrams.
pub struct EdgePlane {
    threads: Threads,
    commons: Arc<Commons>,
}

/// What all edge processes of a node share; a process without it is the only one.
fn gate(bootstrap: &Bootstrap) -> Result<Gate, String> {
    let text = |error: std::io::Error| error.to_string();
    let Some(places_fd) = bootstrap.places_fd else { return Gate::alone().map_err(text) };
    let rates = RateTable::open(inherited("rate table", bootstrap.rate_table_fd)?).map_err(text)?;
    let bytes = RateTable::open(inherited("byte table", bootstrap.byte_table_fd)?).map_err(text)?;
    let board = PlaceBoard::open(inherited("place board", Some(places_fd))?, bootstrap.regions).map_err(text)?;
    Ok(Gate::shared(rates, bytes, Places::new(Arc::new(board), bootstrap.region), bootstrap.salt))
}

impl EdgePlane {
    /// Start the data plane that a bootstrap message describes.
    pub fn start(bootstrap: &[u8]) -> Result<Self, WorkerError> {
        let bootstrap = Bootstrap::parse(bootstrap).map_err(|error| WorkerError::Start(error.to_string()))?;
        let reports = bootstrap.reports();
        let commons = Arc::new(Commons::new(gate(&bootstrap).map_err(WorkerError::Start)?));
        let Bootstrap {
            name,
            index,
            snapshot,
            generation,
            load_page_fd,
            handoff_fds,
            listener_fds,
            succession_fd,
            shuns,
            ..
        } = bootstrap;
        let snapshot = Arc::new(snapshot);
        // Before anything is accepted: whoever is shunned may be waiting already.
        let shunned = commons.gate.shuns.set(shuns, clock::monotonic_us() / 1000);
        shunned.map_err(|error| WorkerError::Start(error.to_string()))?;
        for (key, fd) in listener_fds {
            commons.add(key, inherited("listening socket", Some(fd)).map_err(WorkerError::Start)?);
        }
        let sockets = Arc::clone(&commons);
        let acceptor = PollThread::start("accept", move || {
            let page =
                LoadPage::open(inherited("load page", Some(load_page_fd))?).map_err(|error| error.to_string())?;
            let members: Vec<OwnedFd> =
                handoff_fds.iter().map(|&fd| inherited("handoff socket", Some(fd))).collect::<Result<_, _>>()?;
            let gateways = Gateways::new(page, members, clock::monotonic_us() ^ ((index as u64) << 48));
            Acceptor::new(gateways, sockets).map_err(|error| error.to_string())
        })?;
        let acceptor = Arc::new(acceptor);
        let (first, sockets, known) = (Arc::clone(&snapshot), Arc::clone(&commons), reports.clone());
        // Two processes that read from one UDP socket would tear flows apart.
        let idle = index != 0;
        let datagrams = PollThread::start("datagrams", move || Datagrams::new(&first, known, sockets, idle))?;
        let (first, sockets, other) = (Arc::clone(&snapshot), Arc::clone(&commons), Arc::clone(&acceptor));
        let relay = WorkerThread::start("relay", move || Edge::build(name, reports, first, sockets, other))?;
        let standby = Arc::new(AtomicBool::new(succession_fd.is_some()));
        let threads = Threads { acceptor, relay: Arc::new(relay), datagrams: Arc::new(datagrams), standby };
        let plane = Self { threads, commons };
        plane.put_in_force(snapshot, generation)?.map_err(WorkerError::Start)?;
        match succession_fd {
            None => plane.threads.resume()?.map_err(WorkerError::Start)?,
            Some(fd) => {
                let socket = inherited("succession socket", Some(fd)).map_err(WorkerError::Start)?;
                plane.threads.clone().take_over(socket).map_err(|error| WorkerError::Start(error.to_string()))?;
            }
        }
        Ok(plane)
    }

    /// Put a snapshot in force; an error leaves the old one.
    pub fn apply(&self, snapshot: &[u8], generation: u64) -> Result<Result<(), String>, WorkerError> {
        match Snapshot::parse(snapshot) {
            Ok(snapshot) => self.put_in_force(Arc::new(snapshot), generation),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Both threads read the snapshot before either changes anything. A socket whose protocol has
    /// changed goes from one to the other.
    fn put_in_force(&self, snapshot: Arc<Snapshot>, generation: u64) -> Result<Result<(), String>, WorkerError> {
        let (handed_over, relayed) = (
            self.threads.acceptor.call(|acceptor| acceptor.keys())?,
            self.threads.relay.call(|edge| edge.listeners.borrow().keys())?,
        );
        let copy = Arc::clone(&snapshot);
        if let Err(error) = self.threads.acceptor.call(move |acceptor| acceptor.prepare(&copy, &relayed))? {
            return Ok(Err(error));
        }
        let copy = Arc::clone(&snapshot);
        if let Err(error) = self.threads.relay.call(move |edge| edge.prepare(&copy, &handed_over))? {
            return Ok(Err(error));
        }
        let copy = Arc::clone(&snapshot);
        if let Err(error) = self.threads.datagrams.call(move |datagrams| datagrams.prepare(&copy))? {
            return Ok(Err(error));
        }
        self.threads.acceptor.call(Acceptor::release)?;
        let relayed = self.threads.relay.call(move |edge| edge.commit(snapshot, generation))?;
        let handed_over = self.threads.acceptor.call(Acceptor::commit)?;
        let datagrams = self.threads.datagrams.call(Datagrams::commit)?;
        self.commons.clear();
        Ok(relayed.and(handed_over).and(datagrams))
    }

    /// Take over what the supervisor knows of endpoints.
    pub fn set_endpoints(&self, reports: &[u8]) -> Result<Result<(), SnapshotError>, WorkerError> {
        match parse_reports(reports) {
            Ok(reports) => {
                let copy = reports.clone();
                self.threads.datagrams.call(move |datagrams| datagrams.set_endpoints(copy))?;
                self.threads.relay.call(move |edge| edge.set_endpoints(reports)).map(Ok)
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Take over the sources to refuse for a while (docs/contracts.md §8).
    pub fn set_shuns(&self, shuns: &[u8]) -> Result<(), ShunError> {
        self.commons.gate.shuns.replace(shuns, clock::monotonic_us() / 1000)
    }

    /// Take over a listening socket for a snapshot to come.
    pub fn add_listener(&self, key: String, fd: RawFd) -> Result<Result<(), String>, WorkerError> {
        match adopt(fd) {
            Ok(socket) => {
                self.commons.add(key, socket);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(format!("listening socket {key}: {error}"))),
        }
    }

    /// Give way to the edge process at the other end of `fd`; an error says why it has not taken over.
    pub fn hand_over(&self, fd: RawFd) -> Result<Result<(), String>, WorkerError> {
        match adopt(fd) {
            Ok(socket) => self.threads.hand_over(socket),
            Err(error) => Ok(Err(format!("succession socket: {error}"))),
        }
    }

    /// Metrics as JSON.
    pub fn metrics(&self) -> Result<Vec<u8>, WorkerError> {
        let mut families = self.threads.acceptor.call(|acceptor| acceptor.metrics())?;
        let (families, lost) = self.threads.datagrams.call(move |datagrams| {
            datagrams.metrics(&mut families);
            (families, datagrams.log_lost())
        })?;
        self.threads.relay.call(move |edge| edge.metrics(families, lost))
    }

    /// Status as JSON.
    pub fn status(&self) -> Result<Vec<u8>, WorkerError> {
        // Asked first: what this thread still has it may give to the next one.
        let streams = self.threads.relay.call(|edge| edge.streams.get())?;
        let ((mut sockets, handoffs), waiting) =
            self.threads.acceptor.call(|acceptor| (acceptor.status(), acceptor.waiting()))?;
        let (more, sessions, endpoints) = self.threads.datagrams.call(|datagrams| datagrams.status())?;
        sockets.extend(more);
        let standby = self.threads.standby.load(Ordering::Relaxed);
        let other = Elsewhere { sessions, busy: streams > 0 || waiting > 0, standby };
        self.threads.relay.call(move |edge| edge.status(sockets, handoffs, other, endpoints))
    }

    /// The snapshot in force, secrets blanked.
    pub fn snapshot(&self) -> Result<Vec<u8>, WorkerError> {
        self.threads.relay.call(|edge| edge.snapshot.borrow().redacted())
    }

    /// Accept no more; close what is left after the deadline.
    pub fn drain(&self, deadline_ms: u64) -> Result<(), WorkerError> {
        self.threads.acceptor.call(Acceptor::stop_accepting)?;
        self.threads.datagrams.call(move |datagrams| datagrams.drain(deadline_ms))?;
        self.threads.relay.call(move |edge| edge.drain(deadline_ms))
    }

    /// End the threads.
    pub fn stop(&self) {
        self.threads.acceptor.stop();
        self.threads.datagrams.stop();
        self.threads.relay.stop();
    }
}
