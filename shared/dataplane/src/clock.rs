//! Time: monotonic microseconds for timers, and a coarse clock that costs nothing to read.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

thread_local! {
    static COARSE_MS: Cell<u64> = const { Cell::new(0) };
}

/// Microseconds of `CLOCK_MONOTONIC`: comparable between the processes of one node.
#[must_use]
pub fn monotonic_us() -> u64 {
    crate::net::clock_monotonic_us()
}

/// Microseconds since the first call in this process; the cheapest precise stamp.
#[must_use]
pub fn process_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// The monotonic time in milliseconds as of the last [`tick`]; late by one tick at most.
#[must_use]
pub fn coarse_ms() -> u64 {
    COARSE_MS.get()
}

/// Advance the coarse clock of this thread; called by the data plane's ticker.
pub fn tick() {
    COARSE_MS.set(monotonic_us() / 1000);
}
