//! Sources that are refused for a while: prefixes with an end, looked up by longest match first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{PoisonError, RwLock};

use rustc_hash::FxHashMap;
use serde::Deserialize;
use thiserror::Error;

use crate::cidr::canonical;

/// The most prefixes that are held; the supervisor refuses more.
pub const MAX_SHUNNED: usize = 100_000;

/// A list that cannot be taken over.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShunError {
    /// The bytes are not such a list.
    #[error("not a list of shunned sources: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A prefix that is none.
    #[error("'{0}' is not an IP address or prefix")]
    Prefix(String),
    /// More than [`MAX_SHUNNED`].
    #[error("{0} shunned sources, at most {MAX_SHUNNED} are held")]
    TooMany(usize),
}

/// One entry, as the supervisor sends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shun {
    source: String,
    ttl_ms: u64,
}

/// By prefix length: masked address → end of the shunning in ms of the monotonic clock.
#[derive(Default)]
struct Table {
    /// Longest first, so that the usual case, single addresses, is looked at first.
    v4: Vec<(u32, FxHashMap<u32, u64>)>,
    v6: Vec<(u32, FxHashMap<u128, u64>)>,
}

/// The sources shunned now. All threads of an edge ask it; a new list takes the place of the old one.
#[derive(Default)]
pub struct ShunList(RwLock<Table>);

impl ShunList {
    /// Take over a JSON list of `{"source": "10.0.0.0/8", "ttl_ms": 60000}` at `now_ms`.
    pub fn replace(&self, json: &[u8], now_ms: u64) -> Result<(), ShunError> {
        self.set(serde_json::from_slice(json)?, now_ms)
    }

    /// Take over such a list at `now_ms`.
    pub fn set(&self, entries: Vec<Shun>, now_ms: u64) -> Result<(), ShunError> {
        if entries.len() > MAX_SHUNNED {
            return Err(ShunError::TooMany(entries.len()));
        }
        let mut table = Table::default();
        for entry in entries {
            let until_ms = now_ms.saturating_add(entry.ttl_ms);
            let (address, length) = parse(&entry.source).ok_or(ShunError::Prefix(entry.source))?;
            match address {
                IpAddr::V4(v4) => insert(&mut table.v4, length, mask_v4(v4, length), until_ms),
                IpAddr::V6(v6) => insert(&mut table.v6, length, mask_v6(v6, length), until_ms),
            }
        }
        table.v4.sort_unstable_by_key(|&(length, _)| std::cmp::Reverse(length));
        table.v6.sort_unstable_by_key(|&(length, _)| std::cmp::Reverse(length));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// Whether `source` is shunned at `now_ms`, which is asked only for one that is listed. The cost grows with the number of prefix *lengths* in use.
    #[must_use]
    pub fn contains(&self, source: IpAddr, now_ms: impl Fn() -> u64) -> bool {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match canonical(source) {
            IpAddr::V4(v4) => holds(&table.v4, now_ms, |length| mask_v4(v4, length)),
            IpAddr::V6(v6) => holds(&table.v6, now_ms, |length| mask_v6(v6, length)),
        }
    }
}

fn insert<T: std::hash::Hash + Eq>(table: &mut Vec<(u32, FxHashMap<T, u64>)>, length: u32, key: T, until_ms: u64) {
    let index = table.iter().position(|&(known, _)| known == length).unwrap_or_else(|| {
        table.push((length, FxHashMap::default()));
        table.len() - 1
    });
    table[index].1.insert(key, until_ms);
}

fn holds<T: std::hash::Hash + Eq>(
    table: &[(u32, FxHashMap<T, u64>)],
    now_ms: impl Fn() -> u64,
    masked: impl Fn(u32) -> T,
) -> bool {
    table.iter().any(|(length, entries)| entries.get(&masked(*length)).is_some_and(|&until_ms| now_ms() < until_ms))
}

fn mask_v4(address: Ipv4Addr, length: u32) -> u32 {
    u32::from(address) & !u32::MAX.checked_shr(length).unwrap_or(0)
}

fn mask_v6(address: Ipv6Addr, length: u32) -> u128 {
    u128::from(address) & !u128::MAX.checked_shr(length).unwrap_or(0)
}

fn parse(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.parse().ok().filter(|&length| length <= most)?,
        None => most,
    };
    match address {
        // Looked up as IPv4, so it must stand there.
        IpAddr::V6(v6) if length >= 96 => Some(match v6.to_ipv4_mapped() {
            Some(v4) => (IpAddr::V4(v4), length - 96),
            None => (address, length),
        }),
        _ => Some((address, length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::CidrSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_of_its_living_prefixes_holds(
            prefixes in prop::collection::vec((any::<IpAddr>(), 0u32..=128, 0u64..100), 0..20),
            probes in prop::collection::vec(any::<IpAddr>(), 0..20),
            now in 0u64..100,
        ) {
            let text = |&(address, length, _): &(IpAddr, u32, u64)| {
                format!("{address}/{}", length.min(if address.is_ipv4() { 32 } else { 128 }))
            };
            // An entry written twice has the end of the last one.
            let mut unique: Vec<(IpAddr, u32, u64)> = Vec::new();
            for prefix in prefixes {
                let same = |known: &(IpAddr, u32, u64)| parse(&text(known)).map(masked) == parse(&text(&prefix)).map(masked);
                unique.retain(|known| !same(known));
                unique.push(prefix);
            }
            let json = serde_json::Value::from(unique.iter().map(|prefix| {
                serde_json::json!({"source": text(prefix), "ttl_ms": prefix.2})
            }).collect::<Vec<_>>());
            let list = ShunList::default();
            list.replace(json.to_string().as_bytes(), 0).expect("valid");
            let living: Vec<String> = unique.iter().filter(|prefix| now < prefix.2).map(text).collect();
            let set = CidrSet::parse(&living).expect("valid");
            for probe in probes.into_iter().chain(unique.iter().map(|prefix| prefix.0)) {
                if canonical(probe) == probe {
                    prop_assert_eq!(list.contains(probe, || now), set.contains(probe), "{}", probe);
                }
            }
        }
    }

    fn masked((address, length): (IpAddr, u32)) -> (bool, u32, u128) {
        match address {
            IpAddr::V4(v4) => (true, length, u128::from(mask_v4(v4, length))),
            IpAddr::V6(v6) => (false, length, mask_v6(v6, length)),
        }
    }

    #[test]
    fn a_list_takes_the_place_of_the_last_and_a_wrong_one_changes_nothing() {
        let list = ShunList::default();
        let source = "10.1.2.3".parse().expect("valid");
        list.replace(br#"[{"source":"10.0.0.0/8","ttl_ms":1000}]"#, 5_000).expect("valid");
        assert!(list.contains(source, || 5_999) && !list.contains(source, || 6_000));
        assert!(list.contains("::ffff:10.9.9.9".parse().expect("valid"), || 5_000));
        for wrong in [&b"{}"[..], br#"[{"source":"x","ttl_ms":1}]"#, br#"[{"source":"10.0.0.0/33","ttl_ms":1}]"#] {
            assert!(list.replace(wrong, 0).is_err());
        }
        assert!(list.contains(source, || 5_000));
        list.replace(b"[]", 0).expect("valid");
        assert!(!list.contains(source, || 5_000));
    }
}
