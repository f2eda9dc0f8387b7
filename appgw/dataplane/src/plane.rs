//! A gateway as a whole: its worker, and the handle that Python holds.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use serde_json::json;
use weirgate_shared::access_log::AccessLog;
use weirgate_shared::balance::Random;
use weirgate_shared::bootstrap::{Bootstrap, inherited};
use weirgate_shared::clock;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::deadline::{Deadlines, TICK_MS};
use weirgate_shared::endpoint::Endpoint;
use weirgate_shared::endpoint_report::parse_reports;
use weirgate_shared::handoff::{CLOSED_IDS, Handoff, encode_closed};
use weirgate_shared::load_page::{GatewayState, LoadPage};
use weirgate_shared::rate_table::RateTable;
use weirgate_shared::snapshot::{Snapshot, SnapshotError};
use weirgate_shared::worker::{Worker, WorkerError, WorkerThread};

use crate::config::{Kept, Listener, Runtime};
use crate::exchange::Scratch;
use crate::insight::{Gauges, RouteStats, Totals, metrics};
use crate::intake;

/// How long connections are taken that were accepted on a listener just removed.
const RETIRED_MS: u64 = 5_000;
const EXPIRE_TICKS: u64 = 10;
/// Spare buffers that are kept, and how large they may have grown.
const SPARE_SCRATCH: usize = 64;
const SPARE_BYTES: usize = 128 * 1024;

/// A gateway's worker: everything lives on one thread.
pub(crate) struct Gateway {
    name: String,
    pub(crate) index: usize,
    pub(crate) page: LoadPage,
    pub(crate) rates: RateTable,
    pub(crate) deadlines: Deadlines,
    pub(crate) random: Random,
    pub(crate) totals: Totals,
    kept: Kept,
    runtime: RefCell<Rc<Runtime>>,
    /// Listeners that the last snapshot removed, and until when connections to them may still come.
    retired: RefCell<Vec<(u64, Rc<Listener>, u64)>>,
    log: RefCell<Rc<AccessLog>>,
    handoffs: RefCell<Vec<OwnedFd>>,
    /// For each edge worker, where it hears of ends, and those that it has not been told of.
    replies: Vec<(OwnedFd, RefCell<Vec<ConnectionId>>)>,
    #[allow(clippy::vec_box)] // they change hands with each request
    scratch: RefCell<Vec<Box<Scratch>>>,
    connections: Cell<u64>,
    in_flight: Cell<u64>,
    draining_until_ms: Cell<Option<u64>>,
    closing: Cell<bool>,
    ticks: Cell<u64>,
}

/// An open connection, counted; tells the edge of its end where that keeps a limit.
pub(crate) struct Live {
    gateway: Rc<Gateway>,
    /// Which edge worker is to hear of it.
    tracked: Option<(usize, ConnectionId)>,
}

impl Drop for Live {
    fn drop(&mut self) {
        let gateway = &self.gateway;
        gateway.connections.set(gateway.connections.get() - 1);
        gateway.publish();
        if let Some((edge, id)) = self.tracked {
            let (socket, closed) = &gateway.replies[edge];
            closed.borrow_mut().push(id);
            if closed.borrow().len() >= CLOSED_IDS {
                tell_closed(socket, closed);
            }
        }
    }
}

/// A request being worked on, counted.
pub(crate) struct InFlight<'a>(&'a Gateway);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Gateway {
    fn build(bootstrap: Bootstrap) -> Result<Rc<Self>, String> {
        let text = |error: std::io::Error| error.to_string();
        let page = LoadPage::open(inherited("load page", Some(bootstrap.load_page_fd))?).map_err(text)?;
        let rates = RateTable::open(inherited("rate table", bootstrap.rate_table_fd)?).map_err(text)?;
        let fds = bootstrap.handoff_fds.iter();
        let handoffs: Vec<OwnedFd> = fds.map(|&fd| inherited("handoff socket", Some(fd))).collect::<Result<_, _>>()?;
        let replies = handoffs.iter().map(|socket| Ok((socket.try_clone()?, RefCell::default())));
        let replies: Vec<_> = replies.collect::<std::io::Result<_>>().map_err(text)?;
        let kept = Kept::default();
        kept.registry.apply(bootstrap.reports());
        let log = AccessLog::open(&bootstrap.snapshot.logs, None).map_err(|error| format!("access log: {error}"))?;
        log_keys(&bootstrap.snapshot, &kept)?;
        let runtime =
            Runtime::build(bootstrap.snapshot, bootstrap.generation, &kept).map_err(|error| error.to_string())?;
        Ok(Rc::new(Self {
            name: bootstrap.name,
            index: bootstrap.index,
            page,
            rates,
            deadlines: Deadlines::default(),
            random: Random::seeded(clock::monotonic_us() ^ ((bootstrap.index as u64) << 48)),
            totals: Totals::default(),
            kept,
            retired: RefCell::default(),
            runtime: RefCell::new(Rc::new(runtime)),
            log: RefCell::new(log),
            handoffs: RefCell::new(handoffs),
            replies,
            scratch: RefCell::default(),
            connections: Cell::new(0),
            in_flight: Cell::new(0),
            draining_until_ms: Cell::new(None),
            closing: Cell::new(false),
            ticks: Cell::new(0),
        }))
    }

    /// The configuration in force; a request keeps the one it began with.
    pub(crate) fn runtime(&self) -> Rc<Runtime> {
        Rc::clone(&self.runtime.borrow())
    }

    pub(crate) fn log(&self) -> Rc<AccessLog> {
        Rc::clone(&self.log.borrow())
    }

    fn apply(&self, snapshot: Snapshot, generation: u64) -> Result<(), String> {
        let log = AccessLog::open(&snapshot.logs, Some(&self.log())).map_err(|error| format!("access log: {error}"))?;
        // What an attempt before this one has left, which came to nothing.
        self.kept.tls.borrow_mut().forget_unused();
        log_keys(&snapshot, &self.kept)?;
        let runtime = Runtime::build(snapshot, generation, &self.kept).map_err(|error| error.to_string())?;
        runtime.forget_others(&self.kept);
        self.retire(&runtime);
        *self.log.borrow_mut() = log;
        *self.runtime.borrow_mut() = Rc::new(runtime);
        self.kept.tls.borrow_mut().forget_unused();
        self.beat();
        Ok(())
    }

    /// Keep the listeners that `next` does not have for a moment.
    fn retire(&self, next: &Runtime) {
        let until_ms = clock::coarse_ms() + RETIRED_MS;
        let mut retired = self.retired.borrow_mut();
        retired.retain(|(key, _, until_ms)| !next.listeners.contains_key(key) && clock::coarse_ms() < *until_ms);
        let removed = self.runtime().listeners.clone().into_iter().filter(|(key, _)| !next.listeners.contains_key(key));
        retired.extend(removed.map(|(key, listener)| (key, listener, until_ms)));
    }

    /// The listener that a connection was accepted on. One that was just removed is still known: the edge,
    /// which takes a snapshot last, may have accepted before it did.
    pub(crate) fn listener(&self, key: u64) -> Option<Rc<Listener>> {
        let retired = || {
            let retired = self.retired.borrow();
            let known = retired.iter().find(|(known, _, until_ms)| *known == key && clock::coarse_ms() < *until_ms);
            known.map(|(_, listener, _)| Rc::clone(listener))
        };
        self.runtime().listeners.get(&key).cloned().or_else(retired)
    }

    /// Whether the snapshot in force has this listener.
    pub(crate) fn serves(&self, listener: u64) -> bool {
        self.runtime.borrow().listeners.contains_key(&listener)
    }

    /// Count a connection taken from an edge worker.
    pub(crate) fn enter(self: &Rc<Self>, edge: usize, header: &Handoff) -> Live {
        self.connections.set(self.connections.get() + 1);
        self.publish();
        Live { gateway: Rc::clone(self), tracked: header.tracked.then_some((edge, header.connection_id)) }
    }

    pub(crate) fn begin_request(&self) -> InFlight<'_> {
        self.in_flight.set(self.in_flight.get() + 1);
        self.totals.requests.add_one();
        self.publish();
        InFlight(self)
    }

    /// Take a request's time into the smoothed latency (1/8 each).
    pub(crate) fn end_request(&self, total_us: u64) {
        let known = self.totals.latency_us.get();
        self.totals.latency_us.set(known - known / 8 + total_us / 8);
    }

    fn publish(&self) {
        self.page.publish(self.index, self.connections.get(), self.in_flight.get(), self.totals.latency_us.get());
    }

    fn beat(&self) {
        self.page.beat(self.index, clock::coarse_ms(), self.runtime.borrow().generation);
    }

    pub(crate) fn take_scratch(&self) -> Box<Scratch> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_scratch(&self, mut scratch: Box<Scratch>) {
        scratch.out.clear();
        let grown = scratch.out.capacity().max(scratch.wire.capacity()) > SPARE_BYTES;
        let mut spare = self.scratch.borrow_mut();
        if spare.len() < SPARE_SCRATCH && !grown {
            spare.push(scratch);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining_until_ms.get().is_some()
    }

    /// The drain's deadline has passed: what is left is being closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn drain(&self, deadline_ms: u64) {
        // Never early: the coarse clock may be one tick behind.
        self.draining_until_ms.set(Some(clock::coarse_ms() + TICK_MS + deadline_ms));
        // What the edge has queued before it sees this is still taken and served.
        self.page.set_state(self.index, GatewayState::Draining);
    }

    fn endpoints(runtime: &Runtime) -> Vec<&Endpoint> {
        runtime.pools.iter().flat_map(|pool| &pool.pool.members).map(|member| &*member.endpoint).collect()
    }

    fn status(&self) -> Vec<u8> {
        let runtime = self.runtime();
        let endpoints: Vec<_> = Self::endpoints(&runtime).iter().map(|endpoint| endpoint.status()).collect();
        json!({
            "name": self.name, "generation": runtime.generation, "ready": !self.is_draining(), "draining": self.is_draining(),
            "drained": self.is_draining() && self.connections.get() == 0 && self.page.read(self.index).queued == 0, "connections": self.connections.get(),
            "requests_in_flight": self.in_flight.get(), "requests_total": self.totals.requests.value(),
            "upgrades_total": self.totals.upgrades.value(), "upgrades_open": self.totals.upgrades_open(), "latency_us": self.totals.latency_us.get(), "endpoints": endpoints,
        })
        .to_string()
        .into_bytes()
    }

    fn metrics(&self) -> Vec<u8> {
        let runtime = self.runtime();
        let routes: Vec<(&str, &RouteStats)> =
            runtime.routes.iter().map(|route| (route.settings.name.as_str(), &*route.stats)).collect();
        let gauges = Gauges {
            process: &self.name,
            connections: self.connections.get(),
            in_flight: self.in_flight.get(),
            log_lost: self.log.borrow().lost(),
        };
        metrics(&self.totals, &routes, &Self::endpoints(&runtime), &gauges)
    }
}

/// Open the file for keys before the listeners are built that write to it.
fn log_keys(snapshot: &Snapshot, kept: &Kept) -> Result<(), String> {
    let path = snapshot.gateway.key_log.as_deref();
    kept.tls.borrow_mut().log_keys_to(path).map_err(|error| format!("danger_key_log: {error}"))
}

/// Tell an edge worker of connections that have ended; what finds its socket full is told later.
fn tell_closed(socket: &OwnedFd, closed: &RefCell<Vec<ConnectionId>>) {
    let mut closed = closed.borrow_mut();
    if closed.is_empty() {
        return;
    }
    let count = closed.len().min(CLOSED_IDS);
    if weirgate_shared::net::send_message(socket.as_fd(), &encode_closed(&closed[..count])).is_ok() {
        closed.drain(..count);
    }
}

impl Worker for Gateway {
    fn start(self: &Rc<Self>) {
        for (edge, socket) in self.handoffs.borrow_mut().drain(..).enumerate() {
            tokio::task::spawn_local(intake::serve(Rc::clone(self), edge, socket));
        }
        self.publish();
        self.beat();
        self.page.set_state(self.index, GatewayState::Ready);
    }

    fn tick(&self) {
        self.deadlines.scan();
        self.replies.iter().for_each(|(socket, closed)| tell_closed(socket, closed));
        let ticks = self.ticks.get() + 1;
        self.ticks.set(ticks);
        self.beat();
        self.log.borrow().flush();
        if ticks.is_multiple_of(EXPIRE_TICKS) {
            for pool in &self.runtime.borrow().pools {
                for (connections, member) in pool.connections.iter().zip(&pool.pool.members) {
                    connections.expire(pool, &member.endpoint);
                }
            }
        }
        if let Some(deadline) = self.draining_until_ms.get() {
            self.deadlines.expire(Some(self.runtime.borrow().snapshot.gateway.drain_idle_ms));
            if clock::coarse_ms() >= deadline {
                self.closing.set(true);
                self.deadlines.expire(None);
            }
        }
    }
}

/// The gateway data plane of a process.
pub struct GatewayPlane {
    thread: WorkerThread<Gateway>,
}

impl GatewayPlane {
    /// Start the data plane that a bootstrap message describes.
    pub fn start(bootstrap: &[u8]) -> Result<Self, WorkerError> {
        let bootstrap = Bootstrap::parse(bootstrap).map_err(|error| WorkerError::Start(error.to_string()))?;
        let name = bootstrap.name.clone();
        Ok(Self { thread: WorkerThread::start(&name, move || Gateway::build(bootstrap))? })
    }

    /// Put a snapshot in force; an error leaves the old one.
    pub fn apply(&self, snapshot: &[u8], generation: u64) -> Result<Result<(), String>, WorkerError> {
        match Snapshot::parse(snapshot) {
            Ok(snapshot) => self.thread.call(move |gateway| gateway.apply(snapshot, generation)),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Take over what the supervisor knows of endpoints.
    pub fn set_endpoints(&self, reports: &[u8]) -> Result<Result<(), SnapshotError>, WorkerError> {
        match parse_reports(reports) {
            Ok(reports) => self.thread.call(move |gateway| drop(gateway.kept.registry.apply(reports))).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Metrics as JSON.
    pub fn metrics(&self) -> Result<Vec<u8>, WorkerError> {
        self.thread.call(|gateway| gateway.metrics())
    }

    /// Status as JSON.
    pub fn status(&self) -> Result<Vec<u8>, WorkerError> {
        self.thread.call(|gateway| gateway.status())
    }

    /// The snapshot in force, secrets blanked.
    pub fn snapshot(&self) -> Result<Vec<u8>, WorkerError> {
        self.thread.call(|gateway| gateway.runtime().snapshot.redacted())
    }

    /// Take no more connections; close what is left after the deadline.
    pub fn drain(&self, deadline_ms: u64) -> Result<(), WorkerError> {
        self.thread.call(move |gateway| gateway.drain(deadline_ms))
    }

    /// End the thread.
    pub fn stop(&self) {
        self.thread.stop();
    }
}
