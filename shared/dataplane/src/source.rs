//! What limits count as one source, and how many connections each has open.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::cidr::canonical;
use crate::snapshot::SourcePrefix;

impl SourcePrefix {
    /// The source that `address` belongs to: its leading bits, the others 0. An IPv4-mapped address is IPv4.
    #[must_use]
    pub fn of(self, address: IpAddr) -> IpAddr {
        match canonical(address) {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(self.ipv4).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & !host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(self.ipv6).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !host))
            }
        }
    }
}

/// Counts open connections per source, in memory bounded by the connections themselves.
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
    /// Take a place for `source` (see [`SourcePrefix::of`]), or `None` when it already has `limit` connections.
    #[must_use]
    pub fn enter(&self, source: IpAddr, limit: u32) -> Option<SourceSlot> {
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
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("valid")
    }

    #[test]
    fn a_source_gets_its_limit_and_no_more_and_leaves_nothing_behind() {
        let counts = SourceCounts::default();
        let enter = |text: &str| counts.enter(SourcePrefix::default().of(address(text)), 2);
        let held = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("2001:db8::1").is_none(), "one /64 is one source");
        assert!(enter("2001:db8:0:1::1").is_some(), "the next /64 is another");
        assert!(enter("10.0.0.1").is_some());
        drop(held);
        assert!(counts.counts.borrow().is_empty());
    }

    #[test]
    fn the_default_is_an_ipv4_address_or_an_ipv6_64_and_mapped_is_ipv4() {
        let of = |text: &str| SourcePrefix::default().of(address(text)).to_string();
        assert_eq!(of("2001:db8::1:2:3:4"), "2001:db8::");
        assert_eq!([of("192.0.2.7"), of("::ffff:192.0.2.7")], ["192.0.2.7", "192.0.2.7"]);
        let wide = SourcePrefix { ipv4: 24, ipv6: 48 };
        assert_eq!(wide.of(address("::ffff:192.0.2.7")).to_string(), "192.0.2.0");
        assert_eq!(wide.of(address("2001:db8:1:2::3")).to_string(), "2001:db8:1::");
    }

    /// The bits of an address, IPv4-mapped ones as IPv4: an oracle that masks nothing.
    fn bits(address: IpAddr) -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => v4.octets().to_vec(),
                None => v6.octets().to_vec(),
            },
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet & (1 << bit) != 0)).collect()
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
        ]
    }

    proptest! {
        #[test]
        fn two_addresses_are_one_source_if_and_only_if_their_leading_bits_are_alike(
            one in any_address(), flip in 0u32..128, ipv4 in 0u32..=32, ipv6 in 0u32..=128,
        ) {
            let prefix = SourcePrefix { ipv4, ipv6 };
            // One that differs in a single bit: random pairs would never share a long prefix.
            let other = match one {
                IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ (1 << (flip % 32))).into()),
                IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ (1 << flip)).into()),
            };
            let leading = |address| {
                let all = bits(address);
                let length = if all.len() == 32 { ipv4 } else { ipv6 };
                (all.len(), all[..length as usize].to_vec())
            };
            prop_assert_eq!(prefix.of(one) == prefix.of(other), leading(one) == leading(other));
            prop_assert_eq!(prefix.of(prefix.of(one)), prefix.of(one));
        }
    }
}
