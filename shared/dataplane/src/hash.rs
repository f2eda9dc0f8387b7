//! A 64-bit hash that is the same in every build and on every node, for what must agree over time.
//!
//! Eight bytes at a time through the finaliser of `SplitMix64` (Stafford's variant 13 of `MurmurHash3`'s:
//! zimbry.blogspot.com, "Better Bit Mixing", 2011). The seed is no secret: who picks the input can aim
//! for an output, so this is not for tables that a client could fill.

/// The odd constant of `SplitMix64`: 2^64 divided by the golden ratio.
pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scatter the bits of a word; a bijection.
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Fold one more word into a hash.
#[must_use]
pub const fn fold(hash: u64, word: u64) -> u64 {
    mix(hash.wrapping_add(GAMMA) ^ mix(word.wrapping_add(GAMMA)))
}

/// The hash of `bytes`; another seed gives an unrelated one.
#[must_use]
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = fold(seed, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = fold(hash, u64::from_le_bytes(word));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_never_change() {
        // SplitMix64's own first output for state 0, and pinned values: a change would move every flow.
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
        let pinned = [hash(b"", 0), hash(b"weirgate", 0), hash(b"weirgate", 1), hash(b"0123456789abcdef", 0)];
        assert_eq!(pinned, PINNED);
    }

    /// Worked out by another implementation, in Python.
    const PINNED: [u64; 4] =
        [0x0397_ab29_7406_81d9, 0xbea3_5e18_6ba1_bbf1, 0x4455_f197_5e31_806e, 0x0998_14ed_775d_412e];

    #[test]
    fn length_order_and_every_bit_count() {
        assert_ne!(hash(b"a", 0), hash(b"a\0", 0));
        assert_ne!(hash(b"12345678abcdefgh", 0), hash(b"abcdefgh12345678", 0));
        let flips: u32 = (0..64).map(|bit| (fold(7, 0) ^ fold(7, 1 << bit)).count_ones()).sum();
        assert!((1800..2300).contains(&flips), "{flips} of 4096 bits flipped: half is wanted");
    }
}
