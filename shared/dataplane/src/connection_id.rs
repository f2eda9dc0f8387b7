//! 128-bit connection ids: unique on a node, ordered by time, shared by both tiers' logs.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Wall-clock milliseconds (48 bit), a per-process counter and random bits, as in UUID version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u128);

thread_local! {
    static COUNTER: Cell<u64> = const { Cell::new(0) };
    static SALT: u64 = RandomState::new().build_hasher().finish();
}

impl ConnectionId {
    /// A new id for a connection accepted at `wall_ms`.
    #[must_use]
    pub fn next(wall_ms: u64) -> Self {
        let count = COUNTER.get().wrapping_add(1);
        COUNTER.set(count);
        let high = (wall_ms << 16) | (count & 0xffff);
        let low = SALT.with(|salt| *salt) ^ (count >> 16).rotate_left(40);
        Self((u128::from(high) << 64) | u128::from(low))
    }

    /// The id of which [`Self::hex`] is the text.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    /// 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 32];
        for (index, byte) in self.0.to_be_bytes().iter().enumerate() {
            text[index * 2] = DIGITS[usize::from(byte >> 4)];
            text[index * 2 + 1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_ordered_by_time() {
        let ids: Vec<_> = (0..100_000).map(|i| ConnectionId::next(1_000 + i / 1000)).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ids.len());
        assert!(ConnectionId::next(1) < ConnectionId::next(2));
        assert_eq!(ConnectionId(0xab).hex()[30..], *b"ab");
        let text = String::from_utf8(ids[7].hex().to_vec()).expect("ASCII");
        assert_eq!(ConnectionId::from_hex(&text), Some(ids[7]));
        assert_eq!(ConnectionId::from_hex("x"), None);
    }
}
