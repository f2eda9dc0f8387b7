//! PING frames that find out whether the other side is still there (RFC 9113 §6.7).

use std::task::{Context, Poll};

use h2::{Ping, PingPong};
use weirgate_shared::deadline::Deadline;

/// Asks after a time without a byte, and gives up when nothing comes.
pub(crate) struct KeepAlive {
    pings: PingPong,
    deadline: Deadline,
    interval_ms: u64,
    timeout_ms: u64,
    /// A PING is out.
    waiting: bool,
    answered: bool,
    /// Bytes that had been received when it was last looked.
    received: u64,
}

impl KeepAlive {
    /// `interval_ms` of silence before a PING (0 = none), `timeout_ms` for its answer (0 = any time).
    pub(crate) fn new(pings: PingPong, deadline: Deadline, (interval_ms, timeout_ms): (u64, u64)) -> Self {
        deadline.set(interval_ms);
        Self { pings, deadline, interval_ms, timeout_ms, waiting: false, answered: false, received: 0 }
    }

    /// The same, with a PING at once, whose answer comes behind the other side's settings.
    pub(crate) fn starting_with_one(pings: PingPong, deadline: Deadline, times: (u64, u64)) -> Self {
        let mut own = Self::new(pings, deadline, times);
        own.ask();
        own
    }

    /// Whether any PING was answered.
    pub(crate) fn answered(&self) -> bool {
        self.answered
    }

    /// Ready = the other side is gone. `received` counts the bytes that have come from it.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, received: u64) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(context).is_ready() {
                self.waiting = false;
                self.answered = true;
                self.deadline.set(self.interval_ms);
            }
            if self.deadline.ended() || self.deadline.poll_expired(context).is_pending() {
                return Poll::Pending;
            }
            if received != self.received {
                // Whatever came shows that it is there.
                self.received = received;
                self.deadline.set(if self.waiting { self.timeout_ms } else { self.interval_ms });
            } else if self.waiting && self.interval_ms == 0 {
                // Nobody asked for more than the first one.
                self.waiting = false;
                self.deadline.clear();
            } else if self.waiting {
                return Poll::Ready(());
            } else {
                self.ask();
            }
        }
    }

    fn ask(&mut self) {
        self.waiting = self.pings.send_ping(Ping::opaque()).is_ok();
        self.deadline.set(self.timeout_ms);
    }
}
