//! The thread that accepts for the gateways: accept, judge, send, close, and nothing else. It also
//! sends what the other thread has accepted and found to be for a gateway (`reception`).
//!
//! It has no runtime. A connection on its own finds this thread asleep, and then four system calls
//! are all that it costs; a runtime's wake-up took as much user time again (decision 0013).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::Value;
use tokio::sync::oneshot;
use weirgate_shared::clock;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::endpoint::EndpointRegistry;
use weirgate_shared::handoff::Handoff;
use weirgate_shared::metrics::Families;
use weirgate_shared::net::{AcceptError, Poller, accept, yield_to_running_threads};
use weirgate_shared::poll_thread::{PollWorker, Wait};
use weirgate_shared::snapshot::Snapshot;
use weirgate_shared::succession::PlaceRecord;

use crate::config::{Config, Side};
use crate::handoff::{Gateways, Parcel, Place};
use crate::insight;
use crate::listener::{Commons, Listeners, Slot};

/// How long the thread waits before it tries full queues again.
const STALL: Duration = Duration::from_millis(1);
/// How long accepting pauses when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(20);
/// Tokens of the poller: the gateways by index, then listening sockets by number.
const FIRST_LISTENER: u64 = weirgate_shared::load_page::MAX_GATEWAYS as u64;

/// A listening socket that is watched until this is dropped.
struct Watched {
    poller: Rc<Poller>,
    slots: Slots,
    token: u64,
}

type Slots = Rc<RefCell<FxHashMap<u64, Rc<Slot>>>>;

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(slot) = self.slots.borrow_mut().remove(&self.token) {
            let _ = self.poller.remove(slot.socket.as_fd());
        }
    }
}

fn watch(poller: &Rc<Poller>, slots: &Slots, next_token: &mut u64, slot: &Rc<Slot>) -> std::io::Result<Watched> {
    let token = *next_token;
    *next_token += 1;
    poller.add_shared(slot.socket.as_fd(), token)?;
    slots.borrow_mut().insert(token, Rc::clone(slot));
    Ok(Watched { poller: Rc::clone(poller), slots: Rc::clone(slots), token })
}

/// What lives on the thread.
pub(crate) struct Acceptor {
    poller: Rc<Poller>,
    gateways: Gateways,
    listeners: Listeners<Watched>,
    slots: Slots,
    next_token: u64,
    commons: Arc<Commons>,
    prepared: Option<Config>,
    /// A connection that no gateway has room for yet. While there is one, nothing is accepted.
    stuck: Option<Parcel>,
    /// Connections of the other thread that wait behind it.
    posted: VecDeque<Parcel>,
    /// Descriptors have run out.
    exhausted: bool,
    /// Ends that gateways tell are for this process, not for its predecessor or successor.
    listens_to_gateways: bool,
}

impl Acceptor {
    /// To be called on the thread itself.
    /// Nothing is served before [`Self::resume`].
    pub(crate) fn new(gateways: Gateways, commons: Arc<Commons>) -> std::io::Result<Self> {
        yield_to_running_threads();
        let mut listeners = Listeners::default();
        listeners.pause();
        Ok(Self {
            poller: Rc::new(Poller::new()?),
            gateways,
            listeners,
            slots: Slots::default(),
            next_token: FIRST_LISTENER,
            commons,
            prepared: None,
            stuck: None,
            posted: VecDeque::new(),
            exhausted: false,
            listens_to_gateways: false,
        })
    }

    /// Read a snapshot without putting it in force. `elsewhere` = the sockets of the other thread.
    pub(crate) fn prepare(&mut self, snapshot: &Snapshot, elsewhere: &[String]) -> Result<(), String> {
        let config = Config::build(snapshot, &EndpointRegistry::default(), Side::HandedOver)
            .map_err(|error| error.to_string())?;
        self.listeners.check(&config, &self.commons, elsewhere)?;
        self.prepared = Some(config);
        Ok(())
    }

    /// Give up the sockets that the prepared snapshot does not want here.
    pub(crate) fn release(&mut self) {
        if let Some(config) = &self.prepared {
            self.listeners.release(config, &self.commons);
        }
    }

    /// Put the prepared snapshot in force.
    pub(crate) fn commit(&mut self) -> Result<(), String> {
        let Some(config) = self.prepared.take() else { return Ok(()) };
        let Self { listeners, commons, poller, slots, next_token, .. } = self;
        listeners.follow(&config, commons, |slot| watch(poller, slots, next_token, slot))
    }

    /// Accept, and hear what gateways tell of closed connections.
    pub(crate) fn resume(&mut self) -> Result<(), String> {
        self.listens_to_gateways = true;
        let Self { gateways, listeners, poller, slots, next_token, .. } = self;
        for (index, socket) in gateways.sockets().enumerate() {
            poller.add(socket, index as u64).map_err(|error| error.to_string())?;
        }
        listeners.resume(|slot| watch(poller, slots, next_token, slot))
    }

    /// Do neither, so that a successor can. What was accepted is still delivered.
    pub(crate) fn pause(&mut self) {
        // What the poller has told already does not count any more.
        self.listens_to_gateways = false;
        self.listeners.pause();
        for socket in self.gateways.sockets() {
            let _ = self.poller.remove(socket);
        }
    }

    /// What a successor has to know of connections that hold places.
    pub(crate) fn records(&self) -> Vec<PlaceRecord> {
        self.gateways.records()
    }

    /// The successor has taken over.
    pub(crate) fn succeed(&self) {
        self.gateways.succeed();
    }

    /// Take over places from the predecessor; returns those that the other thread has to hold, with what
    /// tells it of their end.
    pub(crate) fn inherit(&self, records: Vec<PlaceRecord>) -> Vec<(PlaceRecord, oneshot::Receiver<()>)> {
        let mut elsewhere = Vec::new();
        for record in records {
            self.gateways.inherit(&record, || {
                if let Some(slot) = self.listeners.slot(record.listener) {
                    return Some(Place::Held { _admitted: slot.readmit(record.source) });
                }
                let (told, given_back) = oneshot::channel();
                elsewhere.push((record.clone(), given_back));
                Some(Place::Lent { _told: Some(told) })
            });
        }
        elsewhere
    }

    /// Connections that were accepted and wait for a gateway's queue.
    pub(crate) fn waiting(&self) -> usize {
        self.posted.len() + usize::from(self.stuck.is_some())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.listeners.keys()
    }

    pub(crate) fn stop_accepting(&mut self) {
        self.listeners.stop();
    }

    /// Sockets and the number of hand-overs, for `status`.
    pub(crate) fn status(&self) -> (Vec<Value>, u64) {
        self.gateways.forget_dead();
        (self.listeners.status(), self.gateways.stats.sent.value())
    }

    pub(crate) fn metrics(&self) -> Families {
        self.gateways.forget_dead();
        let mut families = Families::default();
        insight::listener_metrics(&mut families, self.listeners.stats());
        insight::handoff_metrics(&mut families, &self.gateways.stats);
        families
    }

    /// Accept one connection. Another one makes the poller come round again.
    fn serve(&mut self, token: u64) {
        let Some(slot) = self.slots.borrow().get(&token).map(Rc::clone) else { return };
        match accept(slot.socket.as_fd()) {
            Ok(accepted) => {
                self.gateways.forget_dead();
                let Some(arrival) = slot.judge(accepted) else { return };
                let settings = &arrival.listener.settings;
                let header = Handoff {
                    listener: arrival.listener.key,
                    connection_id: ConnectionId::next(clock::wall_ms()),
                    accepted_us: arrival.accepted_us,
                    tracked: settings.connections_per_source != 0 || settings.max_connections != 0,
                    client: arrival.client,
                    destination: slot.local,
                    peer: arrival.client,
                };
                let place = Place::Held { _admitted: arrival.admitted };
                self.stuck = self.gateways.deliver(Parcel { header, socket: arrival.socket, place });
            }
            Err(AcceptError::Aborted | AcceptError::Empty) => {}
            Err(AcceptError::Exhausted(_)) => {
                slot.stats.exhausted.add_one();
                self.exhausted = true;
            }
            Err(AcceptError::Broken(_)) => {
                let _ = self.poller.remove(slot.socket.as_fd());
            }
        }
    }

    /// Give a connection of the other thread to a gateway; `told` is dropped when its place is free again.
    pub(crate) fn deliver(&mut self, header: Handoff, socket: OwnedFd, told: Option<oneshot::Sender<()>>) {
        self.gateways.forget_dead();
        self.posted.push_back(Parcel { header, socket, place: Place::Lent { _told: told } });
        self.deliver_waiting();
    }

    /// Places of connections whose gateway has ended are given back.
    pub(crate) fn forget_dead(&mut self) {
        self.gateways.forget_dead();
    }

    /// What waits, in order, until every queue is full. As many can wait as there are descriptors.
    fn deliver_waiting(&mut self) {
        while let Some(parcel) = self.stuck.take().or_else(|| self.posted.pop_front()) {
            self.stuck = self.gateways.deliver(parcel);
            if self.stuck.is_some() {
                return;
            }
        }
    }
}

impl PollWorker for Acceptor {
    fn poller(&self) -> &Poller {
        &self.poller
    }

    fn before_wait(&mut self) -> Wait {
        self.deliver_waiting();
        match (&self.stuck, std::mem::take(&mut self.exhausted)) {
            (_, true) => Wait::Pause(PAUSE),
            (Some(_), false) => Wait::Pause(STALL),
            (None, false) => Wait::Forever,
        }
    }

    fn ready(&mut self, token: u64) {
        if token < FIRST_LISTENER {
            if self.listens_to_gateways {
                self.gateways.read_closed(token as usize);
            }
        } else if self.stuck.is_none() && !self.exhausted {
            self.serve(token);
        }
    }
}
