//! A stream held back to its source's rate of bytes: before each read it asks how much it may take.
//!
//! A stream reserves a piece at a time. When its source is over the rate, the piece is due later, and
//! until then the stream does not read: the sender's window closes. Streams of one source are due one
//! after the other, so they share its rate evenly and nobody is woken in vain. What a stream reserved
//! and did not find is given back.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::clock;
use crate::metrics::Counter;
use crate::rate_table::RateTable;
use crate::snapshot::ByteRate;

/// A piece is what the rate brings in 10 ms, within these bounds: smaller ones cost more wake-ups, larger ones
/// make the streams of one source wait longer for each other.
const PIECES_PER_SECOND: f64 = 100.0;
const SMALLEST_PIECE_BYTES: u64 = 1024;
const LARGEST_PIECE_BYTES: u64 = 256 * 1024;

/// One direction of one stream under its source's rate.
pub struct Throttle {
    table: Arc<RateTable>,
    scope: u64,
    source: IpAddr,
    rate: ByteRate,
    piece: u64,
    /// Reserved and not yet used.
    left: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// Until when it waits (`CLOCK_MONOTONIC`, µs); 0 = it does not.
    due_us: u64,
    held_us: u64,
    waits: Rc<Counter>,
}

impl Throttle {
    /// `source` is a prefix, `scope` names the limit, `waits` counts how often a stream had to wait.
    #[must_use]
    pub fn new(table: Arc<RateTable>, scope: u64, source: IpAddr, rate: ByteRate, waits: Rc<Counter>) -> Self {
        let piece = ((rate.per_second / PIECES_PER_SECOND) as u64).clamp(SMALLEST_PIECE_BYTES, LARGEST_PIECE_BYTES);
        let piece = piece.min(rate.burst_bytes).max(1);
        Self { table, scope, source, rate, piece, left: 0, timer: None, due_us: 0, held_us: 0, waits }
    }

    /// How many bytes may be read now, at least one. To be asked only when there is something to read.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        if self.left == 0 {
            let now = clock::monotonic_us();
            let wait_us = self.table.reserve_bytes(self.scope, self.source, self.rate, self.piece, now);
            self.left = self.piece;
            if wait_us > 0 {
                self.waits.add_one();
                self.held_us += wait_us;
                self.due_us = now + wait_us;
                let wait = Duration::from_micros(wait_us);
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(Instant::now() + wait),
                    None => self.timer = Some(Box::pin(sleep(wait))),
                }
            }
        }
        if self.due_us != 0 {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(context));
            }
            self.due_us = 0;
        }
        Poll::Ready(usize::try_from(self.left).unwrap_or(usize::MAX))
    }

    /// So many bytes were read.
    pub fn used(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }

    /// There was nothing more to read.
    pub fn give_back(&mut self) {
        if self.left > 0 {
            self.table.give_back_bytes(self.scope, self.source, self.rate, self.left);
            self.left = 0;
        }
    }

    /// How long it will still wait, in milliseconds.
    #[must_use]
    pub fn waits_ms(&self) -> u64 {
        if self.due_us == 0 { 0 } else { (self.due_us / 1000 + 1).saturating_sub(clock::coarse_ms()) }
    }

    /// How long it has waited in all, in microseconds.
    #[must_use]
    pub fn held_us(&self) -> u64 {
        let ahead = if self.due_us == 0 { 0 } else { self.due_us.saturating_sub(clock::monotonic_us()) };
        self.held_us.saturating_sub(ahead)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const RATE: ByteRate = ByteRate { per_second: 100_000.0, burst_bytes: 20_000 };

    fn throttle(table: &Arc<RateTable>, waits: &Rc<Counter>) -> Throttle {
        Throttle::new(Arc::clone(table), 1, "10.0.0.1".parse().expect("valid"), RATE, Rc::clone(waits))
    }

    /// Read for as long as `total` lasts; what each of the streams got.
    async fn read(mut throttle: Throttle, total: Rc<std::cell::Cell<u64>>) -> u64 {
        let mut got = 0;
        while total.get() > 0 {
            let bytes = poll_fn(|context| throttle.poll_ready(context)).await.min(700);
            throttle.used(bytes);
            got += bytes as u64;
            total.set(total.get().saturating_sub(bytes as u64));
        }
        got
    }

    #[test]
    fn streams_of_one_source_share_its_rate_and_never_pass_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            clock::tick();
            let (table, waits) = (Arc::new(RateTable::create().expect("memfd")), Rc::new(Counter::default()));
            let total = Rc::new(std::cell::Cell::new(60_000));
            let began = clock::monotonic_us();
            let one = || read(throttle(&table, &waits), Rc::clone(&total));
            let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
            let seconds = (clock::monotonic_us() - began) as f64 / 1e6;
            let passed = (a + b + c + d) as f64;
            // each stream can have reserved one piece that it has not used
            assert!(passed <= 20_000.0 + 100_000.0 * seconds, "{passed} in {seconds} s");
            assert!(waits.value() > 0);
            // the first one finds the whole burst, and one that is woken late what came in meanwhile
            assert!([a, b, c, d].iter().all(|&got| got >= 2 * SMALLEST_PIECE_BYTES), "{a} {b} {c} {d}");
        });
    }

    #[test]
    fn what_was_not_used_is_there_for_others() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            clock::tick();
            let (table, waits) = (Arc::new(RateTable::create().expect("memfd")), Rc::new(Counter::default()));
            for _ in 0..1000 {
                let mut throttle = throttle(&table, &waits);
                poll_fn(|context| throttle.poll_ready(context)).await;
                throttle.used(1);
            }
            assert_eq!(waits.value(), 0, "a thousand streams of one byte each");
        });
    }
}
