//! Sets of IP prefixes, looked up by binary search over merged ranges.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

/// A prefix that could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is not an IP address or prefix (wanted e.g. 10.0.0.0/8 or 2001:db8::/32)")]
pub struct InvalidPrefix(String);

/// An immutable set of IPv4 and IPv6 prefixes.
///
/// Prefixes become sorted, merged ranges, so a lookup costs O(log n) whatever their lengths.
/// An IPv4-mapped IPv6 address is looked up as IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl CidrSet {
    /// Read a list of prefixes or single addresses.
    pub fn parse<S: AsRef<str>>(prefixes: &[S]) -> Result<Self, InvalidPrefix> {
        let mut set = Self::default();
        for text in prefixes {
            let text = text.as_ref();
            let invalid = || InvalidPrefix(text.to_owned());
            let (address, length) = match text.split_once('/') {
                Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| invalid())?)),
                None => (text, None),
            };
            match address.parse::<IpAddr>().map_err(|_| invalid())? {
                IpAddr::V4(address) => {
                    let length = length.unwrap_or(32);
                    if length > 32 {
                        return Err(invalid());
                    }
                    let host = u32::MAX.checked_shr(length).unwrap_or(0);
                    let first = u32::from(address) & !host;
                    set.v4.push((first, first | host));
                }
                IpAddr::V6(address) => {
                    let length = length.unwrap_or(128);
                    if length > 128 {
                        return Err(invalid());
                    }
                    let host = u128::MAX.checked_shr(length).unwrap_or(0);
                    let first = u128::from(address) & !host;
                    match address.to_ipv4_mapped() {
                        // looked up as IPv4, so it must stand there
                        Some(_) if length >= 96 => set.v4.push((first as u32, (first | host) as u32)),
                        _ => set.v6.push((first, first | host)),
                    }
                }
            }
        }
        merge(&mut set.v4, |end, start| end.checked_add(1).is_none_or(|next| start <= next));
        merge(&mut set.v6, |end, start| end.checked_add(1).is_none_or(|next| start <= next));
        Ok(set)
    }

    /// Whether no prefix is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether one of the prefixes covers `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match canonical(address) {
            IpAddr::V4(address) => covers(&self.v4, u32::from(address)),
            IpAddr::V6(address) => covers(&self.v6, u128::from(address)),
        }
    }
}

/// An IPv4-mapped IPv6 address as IPv4; any other address unchanged.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The address that stands for a Unix-socket peer: all of them are one local source.
pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, touches: impl Fn(T, T) -> bool) {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for &(start, end) in ranges.iter() {
        match merged.last_mut() {
            Some(last) if touches(last.1, start) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    *ranges = merged;
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= value);
    after > 0 && value <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    proptest! {
        #[test]
        fn lookup_agrees_with_a_scan_of_the_prefixes(
            prefixes in prop::collection::vec((any::<u32>(), 0u32..=32), 0..40),
            probes in prop::collection::vec(any::<u32>(), 1..40),
        ) {
            let texts: Vec<String> =
                prefixes.iter().map(|(a, l)| format!("{}/{l}", Ipv4Addr::from(*a))).collect();
            let set = CidrSet::parse(&texts).expect("all are valid");
            for probe in probes.iter().copied().chain(prefixes.iter().map(|p| p.0)) {
                let naive = prefixes.iter().any(|(a, l)| {
                    *l == 0 || (a >> (32 - l)) == (probe >> (32 - l))
                });
                prop_assert_eq!(set.contains(IpAddr::V4(Ipv4Addr::from(probe))), naive);
            }
        }
    }

    proptest! {
        #[test]
        fn lookup_of_ipv6_agrees_with_a_scan_of_the_prefixes(
            prefixes in prop::collection::vec((any::<u128>(), 0u32..=128), 0..40),
            probes in prop::collection::vec(any::<u128>(), 1..20),
        ) {
            // Mapped addresses are looked up as IPv4: keep out of their prefix.
            let outside = |address: u128| address | 1 << 127;
            let prefixes: Vec<(u128, u32)> = prefixes.into_iter().map(|(a, l)| (outside(a), l)).collect();
            let texts: Vec<String> = prefixes.iter().map(|(a, l)| format!("{}/{l}", Ipv6Addr::from(*a))).collect();
            let set = CidrSet::parse(&texts).expect("all are valid");
            // neighbours of the borders are where a range search goes wrong
            let borders = prefixes.iter().flat_map(|(a, _)| [*a, a.wrapping_add(1), a.wrapping_sub(1)]);
            for probe in probes.into_iter().chain(borders).map(outside) {
                let naive = prefixes.iter().any(|(a, l)| *l == 0 || (a >> (128 - l)) == (probe >> (128 - l)));
                prop_assert_eq!(set.contains(IpAddr::V6(Ipv6Addr::from(probe))), naive);
            }
        }
    }

    /// `cargo test --release -p weirgate-shared -- --ignored --nocapture list_of_100_000`
    #[test]
    #[ignore = "a measurement: its figures are in docs/decisions"]
    fn measure_a_list_of_100_000_prefixes() {
        let mut random = 1u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u32
        };
        let texts: Vec<String> = (0..100_000).map(|_| format!("{}/{}", Ipv4Addr::from(next() & !0xff), 24)).collect();
        let began = std::time::Instant::now();
        let set = CidrSet::parse(&texts).expect("all are valid");
        let parsed = began.elapsed();
        let probes: Vec<IpAddr> = (0..1_000_000).map(|_| IpAddr::V4(Ipv4Addr::from(next()))).collect();
        let began = std::time::Instant::now();
        let hits = probes.iter().filter(|probe| set.contains(**probe)).count();
        let each = began.elapsed().as_nanos() / probes.len() as u128;
        eprintln!("parse {parsed:?}, {} ranges, {hits} hits, {each} ns a lookup", set.v4.len());
    }

    #[test]
    fn mapped_addresses_are_looked_up_as_ipv4() {
        let set = CidrSet::parse(&["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]).expect("valid");
        assert!(set.contains("192.0.2.7".parse().expect("valid")));
        assert!(set.contains("::ffff:192.0.2.7".parse().expect("valid")));
        assert!(!set.contains("192.0.3.7".parse().expect("valid")));
        assert!(set.contains("::ffff:10.1.2.3".parse().expect("valid")));
        assert!(set.contains("2001:db8:1::1".parse().expect("valid")));
        assert!(!set.contains("2001:db9::1".parse().expect("valid")));
    }

    #[test]
    fn malformed_prefixes_are_refused() {
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "x", "10.0.0.0/", "1.2.3.4/-1"] {
            assert!(CidrSet::parse(&[text]).is_err(), "{text}");
        }
    }
}
