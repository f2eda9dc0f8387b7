//! Rate limits per source for the whole node: a fixed table of buckets that all gateways map.
//!
//! Each bucket is one word, the *theoretical arrival time* of the generic cell rate algorithm
//! (ITU-T I.371): a request is let through when that time is at most `burst` requests ahead of now.
//! The table never grows. A source looks at four neighbouring buckets and takes its own, else an
//! idle one; when all four belong to busy others it shares one, which can only limit it earlier.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustc_hash::FxHasher;

use crate::cidr::source_prefix;
use crate::net::SharedMemory;

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

    /// Count one request of `source` under the limit `scope` at `now_us`.
    ///
    /// `Ok` = let through; `Err(ms)` = refused, worth trying again after so many milliseconds.
    pub fn take(&self, scope: u64, source: IpAddr, rate: Rate, now_us: u64) -> Result<(), u64> {
        let mut hasher = FxHasher::default();
        (scope, source_prefix(source)).hash(&mut hasher);
        // Multiply-and-fold spreads FxHash's weak low bits; tag 0 means "never used".
        let hash = hasher.finish().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = (hash ^ (hash >> 29)) | 1;
        let now = now_us.saturating_mul(1000);
        let bucket = self.find(((hash >> 40) as usize) & (BUCKETS - 1), tag, now);

        let interval = (1e9 / rate.per_second.max(1e-6)) as u64;
        let ahead = interval.saturating_mul(u64::from(rate.burst.max(1)) - 1);
        let time = &self.memory.words()[bucket * WORDS + 1];
        let mut known = time.load(Ordering::Relaxed);
        loop {
            let arrival = known.max(now);
            if arrival - now > ahead {
                return Err((arrival - now - ahead).div_ceil(1_000_000));
            }
            match time.compare_exchange_weak(known, arrival + interval, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => known = current,
            }
        }
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
    }
}
