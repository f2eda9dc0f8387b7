//! What the `h2` crate does not judge, seen in the frames of a connection as they come.
//!
//! A limit on frames that cost the receiver work and the sender nothing: PING, SETTINGS and PRIORITY
//! floods, rapid resets (CVE-2023-44487), floods of empty DATA, CONTINUATION or unknown frames. And
//! trailers with pseudo-header fields (RFC 9113 §8.1). Sans-IO: bytes in, verdicts out.

use rustc_hash::FxHashMap;

use super::PREFACE;

const HEADER_BYTES: usize = 9;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// The static table's entries up to this one are pseudo-header fields (RFC 7541 appendix A).
const LAST_PSEUDO: usize = 14;
/// Bursts of so many seconds' worth are fine: a page that is left cancels all of its requests at once.
const BURST_S: u64 = 4;
/// Units that one control frame costs, so that window updates can cost a part of that.
const FRAME: u64 = 16;
/// One window update per so many bytes sent is what an honest receiver needs at most.
const BYTES_PER_UPDATE: u64 = 512;

/// So much of a trailer section is looked at.
const TRAILER_BYTES: usize = 256;
/// Streams with bad trailers that nobody has asked for yet; then the oldest are forgotten.
const BAD_STREAMS: usize = 64;

/// Heads of one answer: the interim ones that are passed on, one more, the final one.
const ANSWER_HEADS: u8 = 18;
/// Answers that have begun and not ended of which the heads are counted.
const UNENDED_ANSWERS: usize = 16 * 1024;

/// More control frames than the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct Flood;

/// Watches the frames of one connection.
pub struct FrameWatch {
    header: [u8; HEADER_BYTES],
    known: usize,
    skip: usize,
    /// Units left, and what comes back in a second.
    left: u64,
    rate: u64,
    /// Window updates that bytes sent have earned.
    earned: u64,
    refilled_ms: u64,
    /// Bytes of answers have left since the last PING came.
    sent_since_ping: bool,
    /// The highest stream that was opened: HEADERS up to it are trailers.
    opened: u32,
    /// The trailers that are being received: stream, flags, the payload's beginning.
    trailers: Option<(u32, u8, Vec<u8>)>,
    bad: Vec<u32>,
    /// What comes are answers: the heads of those that have not ended, by stream.
    answers: Option<FxHashMap<u32, u8>>,
}

impl FrameWatch {
    /// A watch that lets `per_second` control frames pass on average; 0 = any number.
    #[must_use]
    pub fn new(per_second: u64, now_ms: u64) -> Self {
        let rate = per_second.saturating_mul(FRAME);
        Self {
            header: [0; HEADER_BYTES],
            known: 0,
            skip: PREFACE.len(),
            left: rate * BURST_S,
            rate,
            earned: 0,
            refilled_ms: now_ms,
            sent_since_ping: false,
            opened: 0,
            trailers: None,
            bad: Vec::new(),
            answers: None,
        }
    }

    /// A watch on what an endpoint sends: answers without end to one request.
    #[must_use]
    pub fn of_answers() -> Self {
        Self { skip: 0, answers: Some(FxHashMap::default()), ..Self::new(0, 0) }
    }

    /// Bytes of answers were sent: the client may acknowledge them.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_since_ping = true;
        self.earned = (self.earned + bytes as u64).min(BYTES_PER_UPDATE * 1_000_000);
    }

    /// Judge bytes that the client has sent.
    pub fn received(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.refill(now_ms);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.payload(&bytes[..count]);
                self.skip -= count;
                bytes = &bytes[count..];
                if self.skip == 0 {
                    self.judge_trailers();
                }
                continue;
            }
            let count = (HEADER_BYTES - self.known).min(bytes.len());
            self.header[self.known..self.known + count].copy_from_slice(&bytes[..count]);
            self.known += count;
            bytes = &bytes[count..];
            if self.known == HEADER_BYTES {
                self.known = 0;
                let cost = self.frame();
                if self.answers.is_some() {
                    self.count_heads()?;
                } else if self.rate > 0 {
                    self.left = self.left.checked_sub(cost).ok_or(Flood)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a stream's trailers had pseudo-header fields.
    pub fn take_bad_trailers(&mut self, stream: u32) -> bool {
        let known = self.bad.len();
        self.bad.retain(|bad| *bad != stream);
        self.bad.len() != known
    }

    fn payload(&mut self, bytes: &[u8]) {
        if let Some((_, _, kept)) = &mut self.trailers {
            kept.extend_from_slice(&bytes[..bytes.len().min(TRAILER_BYTES - kept.len())]);
        }
    }

    fn judge_trailers(&mut self) {
        let Some((stream, flags, payload)) = self.trailers.take() else { return };
        if names_pseudo(block(flags, &payload)) {
            if self.bad.len() == BAD_STREAMS {
                self.bad.remove(0);
            }
            self.bad.push(stream);
        }
    }

    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.refilled_ms);
        // Whole steps only, so that many small ones lose nothing.
        if passed >= 100 {
            self.left = (self.left + self.rate * passed / 1000).min(self.rate * BURST_S);
            self.refilled_ms = now_ms;
        }
    }

    /// Skip the frame whose header is complete; what it costs.
    /// The crate keeps interim answers without bound until somebody asks for them.
    fn count_heads(&mut self) -> Result<(), Flood> {
        let [_, _, _, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.trailers = None;
        let Some(answers) = &mut self.answers else { return Ok(()) };
        if kind == 3 || (kind < 2 && flags & END_STREAM != 0) {
            answers.remove(&stream);
        } else if kind == 1 {
            if answers.len() >= UNENDED_ANSWERS {
                // Those that never end: each began with a request of ours.
                answers.clear();
            }
            let heads = answers.entry(stream).or_insert(0);
            *heads += 1;
            if *heads > ANSWER_HEADS {
                return Err(Flood);
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> u64 {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.trailers = None;
        if kind == 1 && stream > self.opened {
            self.opened = stream;
        } else if kind == 1 && self.skip > 0 {
            self.trailers = Some((stream, flags, Vec::new()));
        }
        match kind {
            // DATA that moves something, HEADERS (bounded by streams, which end or are reset).
            0 if self.skip > 0 || flags & END_STREAM != 0 => 0,
            1 => 0,
            8 if self.earned >= BYTES_PER_UPDATE => {
                self.earned -= BYTES_PER_UPDATE;
                0
            }
            8 => 1,
            // One for each burst of answers is how clients measure the path (gRPC).
            6 if self.sent_since_ping => {
                self.sent_since_ping = false;
                1
            }
            _ => FRAME,
        }
    }
}

/// The field block in a HEADERS frame's payload, or what is known of it.
fn block(flags: u8, payload: &[u8]) -> &[u8] {
    let padded = usize::from(flags & PADDED != 0);
    let skip = padded + if flags & PRIORITY != 0 { 5 } else { 0 };
    payload.get(skip..).unwrap_or_default()
}

/// Whether a field block names a pseudo-header field, as far as that can be told without the dynamic
/// table: by its index in the static one, or spelt out (RFC 7541 §6).
fn names_pseudo(mut block: &[u8]) -> bool {
    while let [first, ..] = *block {
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            // A change of the table's size.
            0x20..0x40 => {
                if integer(&mut block, 5).is_none() {
                    return false;
                }
                continue;
            }
            _ => (4, true),
        };
        let Some(index) = integer(&mut block, bits) else { return false };
        if (1..=LAST_PSEUDO).contains(&index) {
            return true;
        }
        if literal {
            if index == 0 {
                let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
                let Some(name) = string(&mut block) else { return false };
                // A colon, or its seven bits in the Huffman code.
                if name.first().is_some_and(|&byte| if huffman { byte >> 1 == 0b101_1100 } else { byte == b':' }) {
                    return true;
                }
            }
            if string(&mut block).is_none() {
                return false;
            }
        }
    }
    false
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let mask = (1usize << bits) - 1;
    let (first, mut rest) = block.split_first()?;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// A string as it is coded (RFC 7541 §5.2).
fn string<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER_BYTES + length, 0);
        bytes
    }

    fn passed(kind: u8, flags: u8, length: usize) -> usize {
        let mut watch = FrameWatch::new(10, 0);
        watch.received(PREFACE, 0).expect("the preface");
        (0..100_000).take_while(|_| watch.received(&frame(kind, flags, length), 0).is_ok()).count()
    }

    #[test]
    fn work_for_nothing_is_limited_and_work_is_not() {
        for (kind, flags, length) in [(6, 0, 8), (4, 0, 0), (3, 0, 4), (2, 0, 5), (9, 0, 10), (0, 0, 0), (99, 0, 1)] {
            assert_eq!(passed(kind, flags, length), 40, "frame type {kind}");
        }
        for (kind, flags, length) in [(0, 0, 100), (0, END_STREAM, 0), (1, 4, 20)] {
            assert_eq!(passed(kind, flags, length), 100_000, "frame type {kind}");
        }
        assert_eq!(passed(8, 0, 4), 640);
    }

    #[test]
    fn an_answer_has_so_many_heads_and_no_more() {
        let mut watch = FrameWatch::of_answers();
        for _ in 0..1000 {
            for heads in 0..ANSWER_HEADS {
                let last = if heads + 1 == ANSWER_HEADS { END_STREAM } else { 0 };
                assert_eq!(watch.received(&frame(1, last, 5), 0), Ok(()));
            }
            assert_eq!(watch.received(&frame(6, 0, 8), 0), Ok(()));
        }
        for _ in 0..ANSWER_HEADS {
            assert_eq!(watch.received(&frame(1, 0, 5), 0), Ok(()));
        }
        assert_eq!(watch.received(&frame(1, 0, 5), 0), Err(Flood));
    }

    #[test]
    fn window_updates_are_earned_by_bytes_sent_and_time_refills() {
        let mut watch = FrameWatch::new(1, 0);
        watch.received(PREFACE, 0).expect("the preface");
        for _ in 0..1000 {
            watch.sent(512);
            assert_eq!(watch.received(&frame(8, 0, 4), 0), Ok(()));
        }
        for second in 1..100 {
            assert_eq!(watch.received(&frame(6, 0, 8), second * 1000), Ok(()));
        }
        for _ in 0..3 {
            assert_eq!(watch.received(&frame(6, 0, 8), 99_000), Ok(()), "the rest of the burst");
        }
        assert_eq!(watch.received(&frame(6, 0, 8), 99_000), Err(Flood));
    }

    #[test]
    fn a_ping_for_each_burst_of_answers_costs_little() {
        let mut watch = FrameWatch::new(10, 0);
        watch.received(PREFACE, 0).expect("the preface");
        for _ in 0..640 {
            watch.sent(1);
            assert_eq!(watch.received(&frame(6, 0, 8), 0), Ok(()));
        }
        assert_eq!(watch.received(&frame(6, 0, 8), 0), Err(Flood));
    }

    #[test]
    fn pseudo_fields_are_seen_in_trailers_and_only_there() {
        let headers = |stream: u8, flags: u8, block: &[u8]| {
            [&[0, 0, block.len() as u8, 1, flags, 0, 0, 0, stream][..], block].concat()
        };
        let told = |flags: u8, block: &[u8]| {
            let mut watch = FrameWatch::new(100, 0);
            let bytes = [PREFACE, &headers(1, 4, b"\x82\x84"), &headers(1, flags, block)].concat();
            for byte in bytes {
                watch.received(&[byte], 0).expect("no flood");
            }
            (watch.take_bad_trailers(1), watch.take_bad_trailers(1))
        };
        for good in [&b""[..], b"\x00\x01a\x01b", b"\x3f\xe1\x1f\xbe", b"\x40\x01a\x01:", b"\x0f\x01\x01:", b"\x00\x7f"]
        {
            assert_eq!(told(5, good), (false, false), "{good:?}");
        }
        for bad in [
            &b"\x82"[..],
            b"\x42\x03200",
            b"\x00\x01a\x01b\x04\x01/",
            b"\x00\x05:test\x01x",
            b"\x20\x11\x01a",
            b"\x00\x82\xb9\x4f\x01x",
        ] {
            assert_eq!(told(5, bad), (true, false), "{bad:?}");
        }
        // An empty section is no reason to look at what comes next.
        let mut watch = FrameWatch::new(100, 0);
        let bytes = [PREFACE, &headers(1, 4, b"\x82"), &headers(1, 5, b""), &headers(3, 5, b"\x82")].concat();
        watch.received(&bytes, 0).expect("no flood");
        assert!(!watch.take_bad_trailers(1) && !watch.take_bad_trailers(3));
        assert_eq!(told(5 | PADDED | PRIORITY, b"\x00\0\0\0\0\x01\x82"), (true, false));
    }

    proptest! {
        #[test]
        fn any_block_is_judged(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = names_pseudo(&block);
        }

        /// However the bytes are cut, the verdict is the same.
        #[test]
        fn cuts_do_not_matter(
            frames in prop::collection::vec((0u8..12, 0u8..2, 0usize..40), 0..200), cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let bytes: Vec<u8> =
                PREFACE.iter().copied().chain(frames.iter().flat_map(|&(kind, flags, length)| frame(kind, flags, length))).collect();
            let whole = FrameWatch::new(20, 0).received(&bytes, 0);
            let mut watch = FrameWatch::new(20, 0);
            let mut rest = &bytes[..];
            let mut verdict = Ok(());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                verdict = watch.received(piece, 0);
                if verdict.is_err() || rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(verdict, whole);
        }
    }
}
