//! The shared connections of one endpoint: who may have a stream, and when one is given up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;
use weirgate_shared::clock;
use weirgate_shared::reason::Reason;

use super::super::UpstreamPool;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Ready,
    /// Takes no further request: told to go away, worn, or idle for too long.
    Retired,
    Failed(Reason),
    SpeaksHttp1,
}

/// A connection that requests share.
pub(super) struct Share {
    sender: RefCell<Option<SendRequest<Bytes>>>,
    state: Cell<State>,
    changed: Notify,
    /// Requests on it now, those that wait for it to be connected among them.
    streams: Cell<u32>,
    carried: Cell<u64>,
    opened_ms: u64,
    idle_since_ms: Cell<u64>,
    transport: u64,
    /// The endpoint's settings are known.
    settled: Cell<bool>,
    /// How many requests at once the endpoint was last known to take; all of its connections share this.
    known_limit: Rc<Cell<Option<u32>>>,
}

/// A stream that one request may open.
pub(super) struct Claim(Rc<Share>);

impl Claim {
    pub(super) fn share(&self) -> Rc<Share> {
        Rc::clone(&self.0)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since_ms.set(clock::coarse_ms());
    }
}

impl Share {
    /// Wait until it is connected. False = the endpoint speaks HTTP/1.1.
    pub(super) async fn is_ready(&self) -> Result<bool, Reason> {
        loop {
            let changed = self.changed.notified();
            match self.state.get() {
                State::Ready | State::Retired => return Ok(true),
                State::SpeaksHttp1 => return Ok(false),
                State::Failed(reason) => return Err(reason),
                State::Connecting => changed.await,
            }
        }
    }

    /// Wait until the endpoint has said what it can do, or the connection has ended.
    pub(super) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.settled.get() || self.state.get() != State::Ready {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn set_settled(&self, pool: &UpstreamPool) {
        if !self.settled.replace(true) {
            self.limit(pool);
            self.changed.notify_waiters();
        }
    }

    pub(super) fn set_ready(&self, sender: SendRequest<Bytes>) {
        *self.sender.borrow_mut() = Some(sender);
        self.change(State::Ready);
    }

    pub(super) fn set_failed(&self, reason: Reason) {
        self.change(State::Failed(reason));
    }

    pub(super) fn set_speaks_http1(&self) {
        self.change(State::SpeaksHttp1);
    }

    /// Take no further request; the connection ends with its last one.
    pub(super) fn retire(&self) {
        self.sender.borrow_mut().take();
        if matches!(self.state.get(), State::Connecting | State::Ready) {
            self.change(State::Retired);
        }
    }

    fn change(&self, state: State) {
        self.state.set(state);
        self.changed.notify_waiters();
    }

    /// What opens a stream; `None` = the connection is no longer good for one.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.sender.borrow().clone()
    }

    fn has_room(&self, pool: &UpstreamPool) -> bool {
        if self.transport != pool.transport {
            return false;
        }
        let taking = matches!(self.state.get(), State::Connecting | State::Ready);
        taking && self.streams.get() < self.limit(pool) && !pool.is_worn(self.carried.get(), self.opened_ms)
    }

    /// How many requests it takes at once.
    fn limit(&self, pool: &UpstreamPool) -> u32 {
        if self.settled.get()
            && let Some(sender) = &*self.sender.borrow()
        {
            self.known_limit.set(Some(u32::try_from(sender.current_max_send_streams()).unwrap_or(u32::MAX)));
        }
        pool.pool.settings.max_streams.min(self.known_limit.get().unwrap_or(u32::MAX))
    }

    /// Whether more requests have been promised a stream than the endpoint takes.
    pub(super) fn is_overbooked(&self, pool: &UpstreamPool) -> bool {
        self.streams.get() > self.limit(pool)
    }

    /// Whether the endpoint still takes requests on it.
    fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        match &mut *self.sender.borrow_mut() {
            Some(sender) => !matches!(sender.poll_ready(&mut context), Poll::Ready(Err(_))),
            None => self.state.get() == State::Connecting,
        }
    }
}

/// The shared connections of one endpoint.
#[derive(Default)]
pub(crate) struct Shares {
    known: RefCell<Vec<Rc<Share>>>,
    limit: Rc<Cell<Option<u32>>>,
    speaks_http1: Cell<bool>,
}

impl Shares {
    /// A stream of the connection that has the fewest, if any has room.
    pub(super) fn claim(&self, pool: &UpstreamPool) -> Option<Claim> {
        self.sweep();
        let known = self.known.borrow();
        let share = known.iter().filter(|share| share.has_room(pool)).min_by_key(|share| share.streams.get())?;
        Some(claim(share))
    }

    /// A stream of a connection that is about to be opened.
    pub(super) fn add(&self, pool: &UpstreamPool) -> Claim {
        let now = clock::coarse_ms();
        let share = Rc::new(Share {
            sender: RefCell::default(),
            state: Cell::new(State::Connecting),
            changed: Notify::new(),
            streams: Cell::new(0),
            carried: Cell::new(0),
            opened_ms: now,
            idle_since_ms: Cell::new(now),
            transport: pool.transport,
            settled: Cell::new(false),
            known_limit: Rc::clone(&self.limit),
        });
        self.known.borrow_mut().push(Rc::clone(&share));
        claim(&share)
    }

    /// Whether a connection could take one more request.
    pub(crate) fn has_room(&self, pool: &UpstreamPool) -> bool {
        self.known.borrow().iter().any(|share| share.has_room(pool) && share.is_open())
    }

    /// Whether it is known how many requests at once the endpoint takes.
    pub(super) fn knows_limit(&self) -> bool {
        self.limit.get().is_some()
    }

    /// Whether an endpoint that may choose has last chosen HTTP/1.1.
    pub(crate) fn endpoint_speaks_http1(&self) -> bool {
        self.speaks_http1.get()
    }

    pub(crate) fn set_endpoint_speaks_http1(&self, speaks: bool) {
        self.speaks_http1.set(speaks);
    }

    /// Give up those that carry nothing now.
    pub(crate) fn retire_unused(&self) {
        for share in self.known.borrow().iter() {
            if share.state.get() == State::Ready && share.streams.get() == 0 {
                share.retire();
            }
        }
    }

    /// Give up those that are worn, idle for too long, or made under other settings.
    pub(crate) fn expire(&self, pool: &UpstreamPool) {
        let idle_timeout_ms = pool.pool.settings.idle_timeout_ms;
        let now = clock::coarse_ms();
        for share in self.known.borrow().iter().filter(|share| share.state.get() == State::Ready) {
            let idle =
                share.streams.get() == 0 && idle_timeout_ms != 0 && share.idle_since_ms.get() + idle_timeout_ms <= now;
            let worn = pool.is_worn(share.carried.get(), share.opened_ms);
            if idle || worn || share.transport != pool.transport {
                share.retire();
            }
        }
        self.sweep();
    }

    /// Forget those that take no further request.
    fn sweep(&self) {
        self.known.borrow_mut().retain(|share| {
            if share.is_open() {
                return true;
            }
            share.retire();
            false
        });
    }
}

fn claim(share: &Rc<Share>) -> Claim {
    share.streams.set(share.streams.get() + 1);
    share.carried.set(share.carried.get() + 1);
    Claim(Rc::clone(share))
}
