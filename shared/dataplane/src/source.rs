//! Concurrent connections counted per source, in memory bounded by the connections themselves.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::cidr::source_prefix;

/// Counts open connections per source (an IPv4 address or an IPv6 /64).
///
/// An entry lives only while a connection of that source is open.
#[derive(Default, Clone)]
pub struct SourceCounts {
    counts: Rc<RefCell<FxHashMap<IpAddr, u32>>>,
}

/// One counted connection; dropping it gives the place back.
pub struct SourceSlot {
    counts: Rc<RefCell<FxHashMap<IpAddr, u32>>>,
    source: IpAddr,
}

impl SourceCounts {
    /// Take a place for `address`, or `None` when it already has `limit` connections.
    #[must_use]
    pub fn enter(&self, address: IpAddr, limit: u32) -> Option<SourceSlot> {
        let source = source_prefix(address);
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(source).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(SourceSlot { counts: Rc::clone(&self.counts), source })
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_limit_and_no_more_and_leaves_nothing_behind() {
        let counts = SourceCounts::default();
        let first = "2001:db8::1".parse().expect("valid");
        let neighbour = "2001:db8::2".parse().expect("valid");
        let held = [counts.enter(first, 2), counts.enter(neighbour, 2)];
        assert!(held.iter().all(Option::is_some));
        assert!(counts.enter(first, 2).is_none(), "one /64 is one source");
        assert!(counts.enter("10.0.0.1".parse().expect("valid"), 2).is_some());
        drop(held);
        assert!(counts.counts.borrow().is_empty());
    }
}
