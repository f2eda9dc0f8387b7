//! Rate limits per source for the whole node: a fixed table of buckets that all gateways map.
//!
//! Each bucket is one word, the *theoretical arrival time* of the generic cell rate algorithm
//! (ITU-T I.371): a request is let through when that time is at most `burst` requests ahead of now.
//! The table never grows. A source looks at four neighbouring buckets and takes its own, else an
//! idle one; when all four belong to busy others it shares one, which can only limit it earlier.
//! Bytes are counted the same way, each by its part of a second (decision 0025).

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHasher;

use crate::net::SharedMemory;
use crate::snapshot::ByteRate;

const BUCKETS: usize = 1 << 16;
const PROBES: usize = 4;
const WORDS: usize = 2; // tag, theoretical arrival time in ns

/// The mapped table.
pub struct RateTable {
    memory: SharedMemory,
}

/// One limit: how often, and how far ahead of it a source may run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: f64,
    /// Requests at once after a pause.
    pub burst: u32,
}

impl RateTable {
    /// A new table in a new memfd (1 MiB).
    pub fn create() -> std::io::Result<Self> {
        Ok(Self { memory: SharedMemory::create("weirgate-rates", BUCKETS * WORDS * 8)? })
    }

    /// Map the table behind `fd`.
    pub fn open(fd: OwnedFd) -> std::io::Result<Self> {
        Ok(Self { memory: SharedMemory::open(fd, BUCKETS * WORDS * 8)? })
    }

    /// The fd to give to other processes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Count one request of `source` (a prefix: [`crate::snapshot::SourcePrefix::of`]) under the limit `scope` at `now_us`.
    ///
    /// `Ok` = let through; `Err(ms)` = refused, worth trying again after so many milliseconds.
    pub fn take(&self, scope: u64, source: IpAddr, rate: Rate, now_us: u64) -> Result<(), u64> {
        let interval = (1e9 / rate.per_second.max(1e-6)) as u64;
        let ahead = interval.saturating_mul(u64::from(rate.burst.max(1)) - 1);
        let now = now_us.saturating_mul(1000);
        let time = self.time_of(scope, source, now);
        Self::charge(time, interval, ahead, now).map_err(|early| early.div_ceil(1_000_000))
    }

    /// Count `bytes` at once, if the source may have them now.
    #[must_use]
    pub fn take_bytes(&self, scope: u64, source: IpAddr, rate: ByteRate, bytes: u64, now_us: u64) -> bool {
        let (cost, now) = (rate.cost_ns(bytes), now_us.saturating_mul(1000));
        let ahead = rate.cost_ns(rate.burst_bytes).saturating_sub(cost);
        Self::charge(self.time_of(scope, source, now), cost, ahead, now).is_ok()
    }

    /// Count `bytes` in any case; returns after how many microseconds the source may have them. Whoever
    /// asks later is told a later time: it is a queue of which only the end is kept.
    #[must_use]
    pub fn reserve_bytes(&self, scope: u64, source: IpAddr, rate: ByteRate, bytes: u64, now_us: u64) -> u64 {
        let (cost, now) = (rate.cost_ns(bytes), now_us.saturating_mul(1000));
        let ahead = rate.cost_ns(rate.burst_bytes).saturating_sub(cost);
        let time = self.time_of(scope, source, now);
        let mut known = time.load(Ordering::Relaxed);
        loop {
            let arrival = known.max(now);
            let next = arrival.saturating_add(cost);
            match time.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (arrival - now).saturating_sub(ahead).div_ceil(1000),
                Err(current) => known = current,
            }
        }
    }

    /// Bytes that were counted and not used after all. Lost where the bucket has another owner by now.
    pub fn give_back_bytes(&self, scope: u64, source: IpAddr, rate: ByteRate, bytes: u64) {
        let (start, tag) = place(scope, source);
        let words = self.memory.words();
        let own = (0..PROBES)
            .map(|probe| (start + probe) & (BUCKETS - 1))
            .find(|bucket| words[bucket * WORDS].load(Ordering::Relaxed) == tag);
        let Some(bucket) = own else { return };
        let back = |known: u64| Some(known.saturating_sub(rate.cost_ns(bytes)));
        let _ = words[bucket * WORDS + 1].fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// Advance a bucket by `cost`, unless it is more than `ahead` of now; the error is by how much more.
    fn charge(time: &AtomicU64, cost: u64, ahead: u64, now: u64) -> Result<(), u64> {
        let mut known = time.load(Ordering::Relaxed);
        loop {
            let arrival = known.max(now);
            if arrival - now > ahead {
                return Err(arrival - now - ahead);
            }
            let next = arrival.saturating_add(cost);
            match time.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => known = current,
            }
        }
    }

    /// The theoretical arrival time of a source under a limit.
    fn time_of(&self, scope: u64, source: IpAddr, now: u64) -> &AtomicU64 {
        let (start, tag) = place(scope, source);
        &self.memory.words()[self.find(start, tag, now) * WORDS + 1]
    }

    fn find(&self, start: usize, tag: u64, now: u64) -> usize {
        let words = self.memory.words();
        let mut idle = None;
        for probe in 0..PROBES {
            let bucket = (start + probe) & (BUCKETS - 1);
            let owner = words[bucket * WORDS].load(Ordering::Relaxed);
            if owner == tag {
                return bucket;
            }
            if idle.is_none() && (owner == 0 || words[bucket * WORDS + 1].load(Ordering::Relaxed) <= now) {
                idle = Some((bucket, owner));
            }
        }
        let Some((bucket, owner)) = idle else { return start };
        // Losing this race means another source has just taken it: share it for this request.
        let _ = words[bucket * WORDS].compare_exchange(owner, tag, Ordering::Relaxed, Ordering::Relaxed);
        bucket
    }
}

impl ByteRate {
    /// How long so many bytes take at this rate.
    fn cost_ns(self, bytes: u64) -> u64 {
        (bytes as f64 * 1e9 / self.per_second.max(1e-6)) as u64
    }
}

/// Where a source's bucket is looked for, and the tag that says that it is its own.
fn place(scope: u64, source: IpAddr) -> (usize, u64) {
    let mut hasher = FxHasher::default();
    (scope, source).hash(&mut hasher);
    // Multiply-and-fold spreads FxHash's weak low bits; tag 0 means "never used".
    let hash = hasher.finish().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (((hash >> 40) as usize) & (BUCKETS - 1), (hash ^ (hash >> 29)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 5 };

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_a_pause_restores_the_burst() {
        let table = RateTable::create().expect("memfd");
        let source = "10.0.0.1".parse().expect("valid");
        let now = 1_000_000;
        for _ in 0..5 {
            assert_eq!(table.take(1, source, RATE, now), Ok(()));
        }
        assert_eq!(table.take(1, source, RATE, now), Err(100));
        assert_eq!(table.take(2, source, RATE, now), Ok(()), "another limit is another bucket");
        assert_eq!(table.take(1, source, RATE, now + 100_000), Ok(()));
        assert!(table.take(1, source, RATE, now + 100_001).is_err());
        for _ in 0..5 {
            assert_eq!(table.take(1, source, RATE, now + 2_000_000), Ok(()));
        }
    }

    #[test]
    fn a_million_sources_leave_the_table_at_its_size_and_do_not_free_a_limited_one() {
        let table = RateTable::create().expect("memfd");
        let slow = Rate { per_second: 1.0, burst: 1 };
        let abuser = "192.0.2.1".parse().expect("valid");
        assert!(table.take(1, abuser, slow, 1_000).is_ok());
        for host in 0..1_000_000u32 {
            let _ = table.take(1, IpAddr::V4((0x0a00_0000 + host).into()), slow, 1_001);
        }
        assert!(table.take(1, abuser, slow, 1_002).is_err());
    }

    const BYTES: ByteRate = ByteRate { per_second: 1000.0, burst_bytes: 4000 };

    #[test]
    fn bytes_pass_up_to_the_burst_and_what_is_not_used_comes_back() {
        let table = RateTable::create().expect("memfd");
        let source = "10.0.0.1".parse().expect("valid");
        assert!(table.take_bytes(1, source, BYTES, 3000, 1_000_000));
        assert!(!table.take_bytes(1, source, BYTES, 1500, 1_000_000), "all or nothing");
        assert!(table.take_bytes(1, source, BYTES, 1000, 1_000_000));
        assert_eq!(table.reserve_bytes(1, source, BYTES, 500, 1_000_000), 500_000);
        assert_eq!(table.reserve_bytes(1, source, BYTES, 500, 1_000_000), 1_000_000, "behind the one before");
        table.give_back_bytes(1, source, BYTES, 500);
        assert_eq!(table.reserve_bytes(1, source, BYTES, 500, 1_000_000), 1_000_000);
        table.give_back_bytes(1, "10.0.0.2".parse().expect("valid"), BYTES, 1_000_000);
        assert_eq!(table.reserve_bytes(1, source, BYTES, 500, 1_000_000), 1_500_000, "nobody else's");
    }

    /// The share of `sources` that are limited though each asks for three quarters of its burst only.
    fn limited_too_early(sources: u32) -> f64 {
        let table = RateTable::create().expect("memfd");
        let source = |host: u32| IpAddr::V4((0x0a00_0000 + host).into());
        let mut early = vec![false; sources as usize];
        for round in 0..3 {
            for host in 0..sources {
                early[host as usize] |= !table.take_bytes(7, source(host), BYTES, 1000, 1_000 + round);
            }
        }
        early.iter().filter(|&&refused| refused).count() as f64 / f64::from(sources)
    }

    #[test]
    fn with_many_sources_at_once_few_are_limited_early_and_the_error_is_known() {
        // decision 0025 quotes these bounds
        let errors = [1_000, 10_000, 20_000, 40_000, 65_536].map(limited_too_early);
        for (error, bound) in errors.iter().zip([0.0, 0.0, 0.001, 0.02, 0.2]) {
            assert!(*error <= bound, "{errors:?}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(steps in prop::collection::vec(0u64..300_000, 1..200)) {
            let table = RateTable::create().expect("memfd");
            let source = "2001:db8::1".parse().expect("valid");
            let (mut now, mut passed) = (1_000_000u64, 0u64);
            let start = now;
            for step in steps {
                now += step;
                passed += u64::from(table.take(9, source, RATE, now).is_ok());
            }
            prop_assert!(passed as f64 <= 5.0 + 10.0 * (now - start) as f64 / 1e6 + 1e-6);
        }

        #[test]
        fn never_more_bytes_than_burst_plus_rate_times_time(
            steps in prop::collection::vec((0u64..300_000, 1u64..4000, any::<bool>()), 1..200),
        ) {
            let table = RateTable::create().expect("memfd");
            let source = "2001:db8::1".parse().expect("valid");
            let (start, mut now, mut due, mut passed) = (1_000_000u64, 1_000_000u64, 1_000_000u64, 0u64);
            for (step, bytes, waits) in steps {
                now += step;
                if waits {
                    // a stream reads half of what it reserved, when it may
                    due = due.max(now + table.reserve_bytes(9, source, BYTES, bytes, now));
                    table.give_back_bytes(9, source, BYTES, bytes - bytes / 2);
                    passed += bytes / 2;
                } else if table.take_bytes(9, source, BYTES, bytes, now) {
                    passed += bytes;
                }
            }
            let seconds = (now.max(due) - start) as f64 / 1e6;
            prop_assert!(passed as f64 <= 4000.0 + 1000.0 * seconds + 1.0, "{passed} in {seconds}");
        }
    }
}
