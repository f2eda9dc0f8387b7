//! Limits on concurrent connections that hold for all edge processes of a node together.
//!
//! Each process writes into a region of its own and reads those of the others, so that nothing has to be
//! repaired when one is killed: the supervisor empties its region. A region is a fixed table; a connection
//! that finds no room in it is counted by its own process alone.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHasher;
use thiserror::Error;

use crate::net::{SharedMemory, empty_range};

/// The most regions of a board: two for each edge worker, as its successor starts before it has ended.
pub const MAX_REGIONS: usize = 32;
const WORDS: usize = 1 << 16;
const PROBES: usize = 8;
/// The lower bits of a word count, those above say whom.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// The mapped regions.
pub struct PlaceBoard {
    memory: SharedMemory,
    regions: usize,
}

impl PlaceBoard {
    /// A new board in a new memfd; its memory is taken only as it is used.
    pub fn create(regions: usize) -> std::io::Result<Self> {
        let regions = regions.clamp(1, MAX_REGIONS);
        Ok(Self { memory: SharedMemory::create("weirgate-places", regions * WORDS * 8)?, regions })
    }

    /// Map the board behind `fd`.
    pub fn open(fd: OwnedFd, regions: usize) -> std::io::Result<Self> {
        if regions == 0 || regions > MAX_REGIONS {
            return Err(std::io::Error::other(format!("{regions} regions, wanted 1 to {MAX_REGIONS}")));
        }
        Ok(Self { memory: SharedMemory::open(fd, regions * WORDS * 8)?, regions })
    }

    /// The fd to give to other processes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Forget what a process held that has ended, and give the memory back.
    pub fn empty(&self, region: usize) -> std::io::Result<()> {
        empty_range(self.memory.as_fd(), region * WORDS * 8, WORDS * 8)
    }

    fn neighbours(&self, region: usize, start: usize) -> impl Iterator<Item = &AtomicU64> {
        let words = &self.memory.words()[region * WORDS..(region + 1) * WORDS];
        (0..PROBES).map(move |probe| &words[(start + probe) % WORDS])
    }

    /// How many places all processes together hold under a tag.
    fn held(&self, start: usize, tag: u64) -> u64 {
        let all = (0..self.regions).flat_map(|region| self.neighbours(region, start));
        all.map(|word| word.load(Ordering::SeqCst))
            .filter(|word| word & !COUNT_MASK == tag)
            .map(|w| w & COUNT_MASK)
            .sum()
    }
}

/// One process's hand on the board.
#[derive(Clone)]
pub struct Places {
    board: Arc<PlaceBoard>,
    region: usize,
}

/// There are as many connections as a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("as many connections as the limit allows")]
pub struct Full;

/// A place that is counted; dropping it gives it back.
pub struct Place {
    places: Places,
    start: usize,
    tag: u64,
}

impl Places {
    /// `region` is this process's own.
    #[must_use]
    pub fn new(board: Arc<PlaceBoard>, region: usize) -> Self {
        Self { region: region.min(board.regions - 1), board }
    }

    /// Take a place under `scope` for a source; [`Full`] when all processes together have `limit` already.
    /// `Ok(None)` = this process's region has no room, and the place is counted nowhere else.
    ///
    /// The place is taken first and given back if it was one too many, so that two processes that take the
    /// last one at the same time never both keep it.
    pub fn enter(&self, scope: u64, source: IpAddr, limit: u32) -> Result<Option<Place>, Full> {
        let Some(place) = self.take(scope, source) else { return Ok(None) };
        if self.board.held(place.start, place.tag) > u64::from(limit) {
            return Err(Full);
        }
        Ok(Some(place))
    }

    /// Take a place whatever the limit: for a connection that another process had let in.
    #[must_use]
    pub fn take(&self, scope: u64, source: IpAddr) -> Option<Place> {
        let mut hasher = FxHasher::default();
        (scope, source).hash(&mut hasher);
        let hash = hasher.finish().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (start, tag) = ((hash >> 48) as usize % WORDS, hash.rotate_left(17) & !COUNT_MASK | 1 << COUNT_BITS);
        let add = |word: &AtomicU64, wanted: fn(u64, u64) -> bool| {
            let step = |known| wanted(known, tag).then(|| if known == 0 { tag | 1 } else { known + 1 });
            word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).is_ok()
        };
        let own = || self.board.neighbours(self.region, start);
        let found = own()
            .any(|word| add(word, |known, tag| known & !COUNT_MASK == tag && known & COUNT_MASK < COUNT_MASK))
            || own().any(|word| add(word, |known, _| known == 0));
        found.then(|| Place { places: self.clone(), start, tag })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let tag = self.tag;
        // Two threads may have made an entry each for the same source: any of them will do.
        let step =
            |known: u64| (known & !COUNT_MASK == tag).then(|| if known & COUNT_MASK <= 1 { 0 } else { known - 1 });
        let _ = self
            .places
            .board
            .neighbours(self.places.region, self.start)
            .any(|word| word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Places, Places, Arc<PlaceBoard>) {
        let board = Arc::new(PlaceBoard::create(2).expect("memfd"));
        let copy = PlaceBoard::open(board.fd().try_clone_to_owned().expect("dup"), 2).expect("mmap");
        (Places::new(Arc::clone(&board), 0), Places::new(Arc::new(copy), 1), board)
    }

    #[test]
    fn a_limit_holds_for_two_processes_together_and_the_places_of_a_dead_one_come_back() {
        let (one, other, board) = pair();
        let source = "10.0.0.1".parse().expect("valid");
        let held = [one.enter(1, source, 3), other.enter(1, source, 3), one.enter(1, source, 3)];
        assert!(held.iter().all(|place| matches!(place, Ok(Some(_)))));
        assert!(other.enter(1, source, 3).is_err());
        assert!(other.enter(2, source, 3).is_ok_and(|place| place.is_some()), "another scope");
        assert!(other.enter(1, "10.0.0.2".parse().expect("valid"), 3).is_ok());
        board.empty(0).expect("empties");
        let again = [other.enter(1, source, 3), other.enter(1, source, 3)];
        assert!(again.iter().all(Result::is_ok));
        assert!(other.enter(1, source, 3).is_err());
        let beyond = other.take(1, source);
        assert!(beyond.is_some());
        drop((held, again, beyond));
        assert!(other.enter(1, source, 1).is_ok());
    }

    #[test]
    fn threads_that_race_for_the_last_place_never_get_more_than_there_are_and_leave_nothing() {
        let (one, other, board) = pair();
        let source = "2001:db8::1".parse().expect("valid");
        let most = std::sync::atomic::AtomicU64::new(0);
        let now = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for places in [&one, &one, &other, &other] {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Ok(place) = places.enter(7, source, 2) {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            now.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                        }
                    }
                });
            }
        });
        let most = most.load(Ordering::SeqCst);
        assert!((1..=2).contains(&most), "{most}");
        assert!(board.memory.words().iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn a_full_region_counts_no_further_source_and_forgets_none() {
        let (one, _, board) = pair();
        let first = one.enter(1, "10.0.0.1".parse().expect("valid"), 1).expect("room");
        let held: Vec<_> = (0..WORDS as u32 * 2)
            .map(|host| one.enter(1, IpAddr::V4((0x0b00_0000 + host).into()), 1).expect("below its limit"))
            .collect();
        assert!(held.iter().filter(|place| place.is_none()).count() > WORDS / 2);
        assert!(one.enter(1, "10.0.0.1".parse().expect("valid"), 1).is_err());
        drop((first, held));
        assert!(board.memory.words().iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }
}
