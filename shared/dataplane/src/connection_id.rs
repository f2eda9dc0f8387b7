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

    /// Read what [`Self::hex`] has written, and nothing else.
    #[must_use]
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        let value = text.iter().try_fold(0u128, |value, &byte| Some((value << 4) | u128::from(digit(byte)?)))?;
        (text.len() == 32).then_some(Self(value))
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
        assert!(ids[..100].iter().all(|id| ConnectionId::from_hex(&id.hex()) == Some(*id)));
        for wrong in [&b""[..], &[b'a'; 31], &[b'a'; 33], &[b'A'; 32], &[b'g'; 32], &[b'a'; 4000]] {
            assert_eq!(ConnectionId::from_hex(wrong), None);
        }
    }
}
