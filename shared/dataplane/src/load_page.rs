//! The load page: how busy each gateway is, in memory that every process of a node maps.
//!
//! Two cache lines a gateway, of which one is busy. Each word has one writer (the gateway itself; `state` also the
//! supervisor's), so plain relaxed stores suffice and nobody waits for anybody; only `sent` is added to by every edge.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net::SharedMemory;

/// The most gateways a node can have.
pub const MAX_GATEWAYS: usize = 256;
/// Two cache lines; the second is written only when a process ends.
const WORDS: usize = 16;
/// The state word: the state in its lowest byte, above it how often the gateway's process has ended.
const STATE_MASK: u64 = 0xff;
const INCARNATION_SHIFT: u32 = 8;
const BYTES: usize = MAX_GATEWAYS * WORDS * 8;

/// What a gateway is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum GatewayState {
    /// Not yet taking connections.
    Starting = 0,
    /// Taking connections.
    Ready = 1,
    /// Finishing what it has.
    Draining = 2,
    /// Its process has ended.
    Down = 3,
}

impl GatewayState {
    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Starting, Self::Ready, Self::Draining, Self::Down].into_iter().find(|s| s.name() == name)
    }

    fn from_word(word: u64) -> Self {
        match word & STATE_MASK {
            1 => Self::Ready,
            2 => Self::Draining,
            3 => Self::Down,
            _ => Self::Starting,
        }
    }
}

/// One gateway's line, as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What it is ready for.
    pub state: GatewayState,
    /// `clock::monotonic_us() / 1000` of its last beat.
    pub heartbeat_ms: u64,
    /// Open downstream connections.
    pub connections: u64,
    /// Requests being worked on.
    pub requests_in_flight: u64,
    /// Smoothed time to answer, µs.
    pub latency_us: u64,
    /// The snapshot in force.
    pub generation: u64,
    /// Connections the edge has sent that the gateway has not taken yet.
    pub queued: u64,
}

/// The mapped page.
pub struct LoadPage {
    memory: SharedMemory,
}

#[derive(Clone, Copy)]
enum Word {
    State,
    Heartbeat,
    Connections,
    InFlight,
    Latency,
    Generation,
    Taken,
    Sent,
    TakenAtEnd,
}

impl LoadPage {
    /// A new page in a new memfd.
    pub fn create() -> std::io::Result<Self> {
        Ok(Self { memory: SharedMemory::create("weirgate-load", BYTES)? })
    }

    /// Map the page behind `fd`.
    pub fn open(fd: OwnedFd) -> std::io::Result<Self> {
        Ok(Self { memory: SharedMemory::open(fd, BYTES)? })
    }

    /// The fd to give to other processes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn word(&self, gateway: usize, word: Word) -> &AtomicU64 {
        &self.memory.words()[gateway.min(MAX_GATEWAYS - 1) * WORDS + word as usize]
    }

    /// Read one gateway's line.
    #[must_use]
    pub fn read(&self, gateway: usize) -> Load {
        let get = |word| self.word(gateway, word).load(Ordering::Relaxed);
        Load {
            state: GatewayState::from_word(get(Word::State)),
            heartbeat_ms: get(Word::Heartbeat),
            connections: get(Word::Connections),
            requests_in_flight: get(Word::InFlight),
            latency_us: get(Word::Latency),
            generation: get(Word::Generation),
            // A reader may see `taken` before `sent`: that is an empty queue, not a huge one.
            queued: get(Word::Sent).saturating_sub(get(Word::Taken)),
        }
    }

    /// What the edge compares: the work a new connection would stand beside.
    #[must_use]
    pub fn weight_of(&self, gateway: usize) -> u64 {
        let load = self.read(gateway);
        load.connections + load.requests_in_flight + load.queued
    }

    /// Set what a gateway is ready for. `Down` ends its incarnation.
    pub fn set_state(&self, gateway: usize, state: GatewayState) {
        if state == GatewayState::Down {
            let taken = self.word(gateway, Word::Taken).load(Ordering::Relaxed);
            self.word(gateway, Word::TakenAtEnd).store(taken, Ordering::Relaxed);
        }
        let word = self.word(gateway, Word::State);
        let incarnation = self.incarnation(gateway) + u64::from(state == GatewayState::Down);
        word.store(incarnation << INCARNATION_SHIFT | state as u64, Ordering::Relaxed);
    }

    /// How often the gateway's process has ended: what an earlier one held is gone.
    #[must_use]
    pub fn incarnation(&self, gateway: usize) -> u64 {
        self.word(gateway, Word::State).load(Ordering::Relaxed) >> INCARNATION_SHIFT
    }

    /// A gateway's figures, published by itself.
    pub fn publish(&self, gateway: usize, connections: u64, in_flight: u64, latency_us: u64) {
        self.word(gateway, Word::Connections).store(connections, Ordering::Relaxed);
        self.word(gateway, Word::InFlight).store(in_flight, Ordering::Relaxed);
        self.word(gateway, Word::Latency).store(latency_us, Ordering::Relaxed);
    }

    /// A sign of life, with the generation in force.
    pub fn beat(&self, gateway: usize, now_ms: u64, generation: u64) {
        self.word(gateway, Word::Heartbeat).store(now_ms, Ordering::Relaxed);
        self.word(gateway, Word::Generation).store(generation, Ordering::Relaxed);
    }

    /// An edge has sent a connection; returns how many it was sent by now, by all of them.
    #[allow(clippy::must_use_candidate)] // most only count
    pub fn count_sent(&self, gateway: usize) -> u64 {
        self.word(gateway, Word::Sent).fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many connections the gateway's processes had taken when the last of them ended.
    #[must_use]
    pub fn taken_at_end(&self, gateway: usize) -> u64 {
        self.word(gateway, Word::TakenAtEnd).load(Ordering::Relaxed)
    }

    /// The gateway has taken a connection.
    pub fn count_taken(&self, gateway: usize) {
        let word = self.word(gateway, Word::Taken);
        // One writer: a load and a store are enough, and cheaper than a locked add.
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_publishes_another_reads() {
        let page = LoadPage::create().expect("memfd");
        let other = LoadPage::open(page.fd().try_clone_to_owned().expect("dup")).expect("mmap");
        page.set_state(3, GatewayState::Ready);
        page.publish(3, 7, 2, 150);
        page.beat(3, 99, 5);
        other.count_sent(3);
        other.count_sent(3);
        page.count_taken(3);
        let load = other.read(3);
        assert_eq!(load.state, GatewayState::Ready);
        assert_eq!((load.connections, load.requests_in_flight, load.latency_us), (7, 2, 150));
        assert_eq!((load.heartbeat_ms, load.generation, load.queued), (99, 5, 1));
        assert_eq!(other.weight_of(3), 10);
        assert_eq!(other.read(2).state, GatewayState::Starting);
        assert_eq!(other.incarnation(3), 0);
        page.set_state(3, GatewayState::Down);
        page.count_taken(3);
        assert_eq!(other.taken_at_end(3), 1);
        page.set_state(3, GatewayState::Starting);
        other.set_state(3, GatewayState::Ready);
        assert_eq!((page.incarnation(3), page.read(3).state), (1, GatewayState::Ready));
    }
}
