//! The thread of the UDP listeners: their sockets, their sessions' lives, what is told of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::Value;
use weirgate_shared::access_log::AccessLog;
use weirgate_shared::balance::Random;
use weirgate_shared::clock;
use weirgate_shared::deadline::TICK_MS;
use weirgate_shared::endpoint::EndpointRegistry;
use weirgate_shared::endpoint_report::EndpointReport;
use weirgate_shared::metrics::Families;
use weirgate_shared::net::{BATCH, DatagramBatch, Destination, Poller, coalesce, tell_destination};
use weirgate_shared::poll_thread::{PollWorker, Wait};
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::{OnDown, Snapshot};
use weirgate_shared::succession::SessionRecord;

use crate::config::{Config, Side};
use crate::insight::{self, ClosedBy, DatagramCounts, StreamRecord};
use crate::listener::{Commons, Listeners, Slot};
use crate::opening::Opening;
use crate::plane::open_log;
use crate::sessions::{Session, Sessions};
use crate::streams;

/// A listening socket with its sessions. Its token is its number shifted left; a session's has the
/// session's number + 1 in the lower half.
pub(crate) struct Door {
    pub(crate) slot: Rc<Slot>,
    pub(crate) wildcard: bool,
    pub(crate) sessions: Sessions,
}

type Doors = Rc<RefCell<FxHashMap<u32, Door>>>;

/// A door that is open until this is dropped.
struct Open {
    poller: Rc<Poller>,
    doors: Doors,
    closed: Rc<RefCell<Vec<Door>>>,
    number: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(door) = self.doors.borrow_mut().remove(&self.number) {
            let _ = self.poller.remove(&door.slot.socket);
            self.closed.borrow_mut().push(door);
        }
    }
}

/// What lives on the thread.
pub(crate) struct Datagrams {
    pub(crate) poller: Rc<Poller>,
    config: Config,
    prepared: Option<(Config, Rc<AccessLog>)>,
    registry: EndpointRegistry,
    pub(crate) random: Random,
    log: Rc<AccessLog>,
    listeners: Listeners<Open>,
    pub(crate) doors: Doors,
    /// Doors that were closed and whose sessions still have to be told of.
    closed: Rc<RefCell<Vec<Door>>>,
    next_door: u32,
    commons: Arc<Commons>,
    pub(crate) batch: DatagramBatch,
    /// Answers in the batch's first slots, all for clients of this door.
    pub(crate) answers: Vec<(usize, Destination)>,
    pub(crate) answers_of: u32,
    swept_ms: u64,
    pub(crate) draining_until_ms: Option<u64>,
    /// Nothing is read: a successor before it takes over, and what it took over from.
    paused: bool,
    /// The UDP listeners are another edge worker's.
    idle: bool,
}

impl Datagrams {
    /// To be called on the thread itself. Nothing is read before [`Self::resume`]; with `idle`, nothing ever.
    pub(crate) fn new(
        snapshot: &Snapshot,
        reports: BTreeMap<String, EndpointReport>,
        commons: Arc<Commons>,
        idle: bool,
    ) -> Result<Self, String> {
        let registry = EndpointRegistry::default();
        registry.apply(reports);
        Ok(Self {
            poller: Rc::new(Poller::new().map_err(|error| error.to_string())?),
            config: build(snapshot, &registry, idle)?,
            prepared: None,
            registry,
            random: Random::seeded(clock::monotonic_us()),
            log: open_log(&snapshot.logs, None)?,
            listeners: Listeners::default(),
            doors: Doors::default(),
            closed: Rc::default(),
            next_door: 0,
            commons,
            batch: DatagramBatch::default(),
            answers: Vec::with_capacity(BATCH),
            answers_of: 0,
            swept_ms: 0,
            draining_until_ms: None,
            paused: true,
            idle,
        })
    }

    /// Read a snapshot without putting it in force.
    pub(crate) fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let config = build(snapshot, &self.registry, self.idle)?;
        self.listeners.check(&config, &self.commons, &[])?;
        self.prepared = Some((config, open_log(&snapshot.logs, Some(&self.log))?));
        Ok(())
    }

    /// Put the prepared snapshot in force. Sessions stay, as long as their listener does.
    pub(crate) fn commit(&mut self) -> Result<(), String> {
        let Some((config, log)) = self.prepared.take() else { return Ok(()) };
        self.log = log;
        self.listeners.release(&config, &self.commons);
        let Self { listeners, poller, doors, closed, next_door, paused, .. } = self;
        listeners.follow(&config, &self.commons, |slot| {
            let number = *next_door;
            *next_door += 1;
            let wildcard = slot.local.ip().is_unspecified();
            if wildcard {
                tell_destination(slot.socket.as_fd());
            }
            coalesce(slot.socket.as_fd());
            if !*paused {
                poller.add(&slot.socket, token_of(number))?;
            }
            let door = Door { slot: Rc::clone(slot), wildcard, sessions: Sessions::default() };
            doors.borrow_mut().insert(number, door);
            Ok(Open { poller: Rc::clone(poller), doors: Rc::clone(doors), closed: Rc::clone(closed), number })
        })?;
        self.config = config;
        for mut door in self.closed.take() {
            self.end_all(&mut door, Some(Reason::ConfigChanged));
        }
        Ok(())
    }

    /// Take over what the supervisor knows. Sessions of an endpoint that fell move with their next datagram;
    /// where it is to be final, or the pool says so, they end at once.
    pub(crate) fn set_endpoints(&mut self, reports: BTreeMap<String, EndpointReport>) {
        for endpoint in self.registry.apply(reports) {
            let pool = self.config.pools.iter().find(|pool| pool.settings.name == endpoint.pool);
            if !streams::ends(pool.map_or(OnDown::Keep, |pool| pool.settings.on_down), &endpoint) {
                continue;
            }
            let reason = streams::reason(&endpoint);
            let doors = Rc::clone(&self.doors);
            for door in doors.borrow_mut().values_mut() {
                for number in door.sessions.of(&endpoint) {
                    self.end(door, number, ClosedBy::Weirgate, Some(reason));
                }
            }
        }
    }

    pub(crate) fn drain(&mut self, deadline_ms: u64) {
        let deadline = clock::coarse_ms() + TICK_MS + deadline_ms; // never early, as elsewhere
        self.draining_until_ms = Some(self.draining_until_ms.map_or(deadline, |known| known.min(deadline)));
    }

    /// Sockets, open sessions and endpoints, for `status`.
    pub(crate) fn status(&self) -> (Vec<Value>, u64, Vec<Value>) {
        let sessions = self.doors.borrow().values().map(|door| door.sessions.len() as u64).sum();
        (self.listeners.status(), sessions, self.config.endpoint_status())
    }

    pub(crate) fn metrics(&self, families: &mut Families) {
        insight::listener_metrics(families, self.listeners.stats());
        insight::datagram_metrics(families, &self.listeners.stats());
    }

    pub(crate) fn log_lost(&self) -> u64 {
        self.log.lost()
    }

    /// Read from the listening sockets.
    pub(crate) fn resume(&mut self) -> Result<(), String> {
        self.paused = false;
        for (&number, door) in self.doors.borrow().iter() {
            self.poller.add(&door.slot.socket, token_of(number)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The successor has taken over listening sockets and sessions: let go of them, and tell of none.
    pub(crate) fn succeed(&mut self) {
        self.paused = true;
        for door in self.doors.borrow_mut().values_mut() {
            let _ = self.poller.remove(&door.slot.socket);
            for (session, _) in door.sessions.by_age() {
                // Closing alone would not do: the successor holds the same open file.
                let _ = self.poller.remove(&session.socket);
            }
            door.sessions = Sessions::default();
        }
    }

    /// Hand every session to `give`, each listener's longest unused first.
    pub(crate) fn hand_over(
        &self,
        mut give: impl FnMut(SessionRecord, BorrowedFd<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        for door in self.doors.borrow().values() {
            for (session, seen_ms) in door.sessions.by_age() {
                give(session.record(&door.slot.key, seen_ms), session.socket.as_fd())?;
            }
        }
        Ok(())
    }

    /// Take over a session of the predecessor. One whose listener is not here any more ends.
    pub(crate) fn inherit(&mut self, record: &SessionRecord, socket: OwnedFd) -> Result<(), String> {
        let mut doors = self.doors.borrow_mut();
        let Some((&number, door)) = doors.iter_mut().find(|(_, door)| door.slot.key == record.listener) else {
            return Ok(());
        };
        let endpoint = self.registry.obtain(&record.endpoint, &record.pool, &record.endpoint_address);
        let admitted = door.slot.readmit(record.client.ip());
        let Some(session) = Session::of(record, socket, endpoint, admitted) else { return Ok(()) };
        let token = token_of(number) | (u64::from(door.sessions.next_number()) + 1);
        self.poller.add(&session.socket, token).map_err(|error| error.to_string())?;
        door.sessions.insert(session, record.seen_ms);
        Ok(())
    }

    pub(crate) fn end(&self, door: &mut Door, number: u32, closed_by: ClosedBy, reason: Option<Reason>) {
        let Some(session) = door.sessions.remove(number) else { return };
        let listener = door.slot.listener();
        let total_us = clock::monotonic_us() - session.started_us;
        door.slot.stats.duration.record(total_us);
        if let Some(reason) = reason {
            door.slot.stats.refuse(reason);
        }
        StreamRecord {
            id: session.id,
            listener: &listener.settings,
            peer: session.client,
            opening: &Opening::of(session.client),
            pool: &session.endpoint.pool,
            endpoint: &session.endpoint.address,
            bytes_in: session.bytes_in,
            bytes_out: session.bytes_out,
            queue_us: 0,
            connect_us: 0,
            first_byte_us: 0,
            held_us: 0,
            total_us,
            paths: None,
            closed_by,
            reason,
            datagrams: Some(DatagramCounts {
                sent: session.datagrams_out,
                received: session.datagrams_in,
                moves: session.moves,
            }),
        }
        .write(&self.log);
    }

    fn end_all(&self, door: &mut Door, reason: Option<Reason>) {
        for number in door.sessions.numbers() {
            self.end(door, number, ClosedBy::Weirgate, reason);
        }
    }

    /// End what has been idle for too long, and everything once the drain's deadline has passed.
    fn sweep(&mut self) {
        let now = clock::coarse_ms();
        if now < self.swept_ms + TICK_MS {
            return;
        }
        self.swept_ms = now;
        let over = self.draining_until_ms.is_some_and(|deadline| now >= deadline);
        let doors = Rc::clone(&self.doors);
        for door in doors.borrow_mut().values_mut() {
            if over {
                self.end_all(door, Some(Reason::Draining));
            }
            let idle_ms = door.slot.listener().settings.idle_timeout_ms;
            while let Some((oldest, seen_ms)) = door.sessions.oldest() {
                if idle_ms == 0 || now < seen_ms + idle_ms {
                    break;
                }
                self.end(door, oldest, ClosedBy::Idle, None);
            }
        }
        self.log.flush();
    }
}

/// The token of a door's listening socket.
fn token_of(number: u32) -> u64 {
    u64::from(number) << 32
}

fn build(snapshot: &Snapshot, registry: &EndpointRegistry, idle: bool) -> Result<Config, String> {
    let config = Config::build(snapshot, registry, Side::Datagrams).map_err(|error| error.to_string())?;
    Ok(if idle { Config { listeners: BTreeMap::new(), pools: Vec::new() } } else { config })
}

impl PollWorker for Datagrams {
    fn poller(&self) -> &Poller {
        &self.poller
    }

    fn before_wait(&mut self) -> Wait {
        // Also one more tick after the last session, for its log line.
        if self.doors.borrow().values().any(|door| door.sessions.len() > 0) || self.log.pending() {
            Wait::AtMost(Duration::from_millis(TICK_MS))
        } else {
            Wait::Forever
        }
    }

    fn ready(&mut self, token: u64) {
        if self.paused {
            return; // told of before it was paused: it is the successor's now
        }
        let (door, session) = ((token >> 32) as u32, token as u32);
        if let Some(session) = session.checked_sub(1) {
            self.take_from_endpoint(door, session);
        } else {
            self.flush();
            self.take_from_clients(door);
        }
    }

    fn after_ready(&mut self) {
        self.flush();
        self.sweep();
    }
}
