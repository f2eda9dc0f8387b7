//! The chunked coding (RFC 9112 §7.1), decoded strictly: CRLF only, bounded size lines and trailers.

use super::is_token_byte;
use crate::message::{HeaderId, Headers};

/// The longest chunk-size line, extensions included.
const LINE_BYTES: usize = 1024;
/// The longest trailer section.
const TRAILER_BYTES: usize = 8 * 1024;
const TRAILER_COUNT: usize = 32;

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// `skip` bytes of framing, then `length` bytes of data that are there.
    Data {
        /// Framing before the data.
        skip: usize,
        /// Bytes of data.
        length: usize,
    },
    /// `skip` bytes of framing can go; more input is needed.
    More {
        /// Framing that is done with.
        skip: usize,
    },
    /// The body has ended after `skip` bytes.
    End {
        /// The rest of the framing.
        skip: usize,
    },
}

/// The coding is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// A decoder of one chunked body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Trailer fields that may be passed on.
    pub trailers: Headers,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size, trailers: Headers::default() }
    }
}

impl Chunked {
    /// Judge the bytes that come next. The caller takes the event's bytes off the input.
    pub fn next(&mut self, input: &[u8]) -> Result<Event, Malformed> {
        let mut skip = 0;
        loop {
            let rest = &input[skip..];
            match self.state {
                State::Size => {
                    let Some(line) = take_line(rest, LINE_BYTES)? else { return Ok(Event::More { skip }) };
                    skip += line.len() + 2;
                    self.state = match chunk_size(line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    let length = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if length == 0 {
                        return Ok(Event::More { skip });
                    }
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Event::Data { skip, length });
                }
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        skip += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Event::More { skip }),
                    _ => return Err(Malformed),
                },
                State::Trailers => {
                    let Some(length) = trailer_end(rest)? else { return Ok(Event::More { skip }) };
                    self.read_trailers(&rest[..length])?;
                    skip += length;
                    self.state = State::Done;
                }
                State::Done => return Ok(Event::End { skip }),
            }
        }
    }

    fn read_trailers(&mut self, section: &[u8]) -> Result<(), Malformed> {
        let mut fields = [httparse::EMPTY_HEADER; TRAILER_COUNT];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
            return Err(Malformed);
        };
        for field in fields {
            if may_trail(field.name.as_bytes()) {
                self.trailers.push(field.name.as_bytes(), field.value);
            }
        }
        Ok(())
    }
}

/// A line without its CRLF; `None` = not all there. A bare CR or LF in it is malformed.
fn take_line(input: &[u8], limit: usize) -> Result<Option<&[u8]>, Malformed> {
    let window = &input[..input.len().min(limit + 2)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', window) else {
        return if window.len() > limit { Err(Malformed) } else { Ok(None) };
    };
    match &input[end..] {
        [b'\r', b'\n', ..] => Ok(Some(&input[..end])),
        [b'\r'] => Ok(None),
        _ => Err(Malformed),
    }
}

/// `chunk-size [ chunk-ext ]`; extensions are checked for control characters and dropped.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at(digits);
    if size.is_empty() || size.len() > 15 {
        return Err(Malformed);
    }
    let extensions = extensions.trim_ascii_start();
    let clean = extensions.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    let introduced = match extensions {
        [] => digits == line.len(),
        [b';', ..] => true,
        _ => false,
    };
    if !clean || !introduced {
        return Err(Malformed);
    }
    size.iter().try_fold(0u64, |value, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(Malformed)?;
        Ok(value * 16 + u64::from(digit))
    })
}

/// The length of the trailer section with its empty line; lines end in CRLF only.
fn trailer_end(input: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    loop {
        let Some(line) = take_line(&input[at..], TRAILER_BYTES)? else {
            return if input.len() > TRAILER_BYTES { Err(Malformed) } else { Ok(None) };
        };
        at += line.len() + 2;
        if at > TRAILER_BYTES {
            return Err(Malformed);
        }
        if line.is_empty() {
            return Ok(Some(at));
        }
        // obs-fold and lines without a name are refused here already (RFC 9112 §5.2).
        if !is_token_byte(line[0]) {
            return Err(Malformed);
        }
    }
}

/// Fields for framing, routing, authentication or content handling must not come as trailers (RFC 9110 §6.5.1).
#[must_use]
pub fn may_trail(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 12] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"max-forwards",
        b"proxy-authorization",
        b"range",
        b"set-cookie",
        b"www-authenticate",
        b"age",
        b"location",
    ];
    matches!(HeaderId::of(name), HeaderId::Other) && !FORBIDDEN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decode `input`, given to the decoder in pieces of `step`.
    fn decode(input: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
        let (mut decoder, mut data, mut at, mut there) = (Chunked::default(), Vec::new(), 0, 0);
        loop {
            match decoder.next(&input[at..there])? {
                Event::Data { skip, length } => {
                    data.extend_from_slice(&input[at + skip..at + skip + length]);
                    at += skip + length;
                }
                Event::More { skip } => {
                    at += skip;
                    if there == input.len() {
                        return Ok(None);
                    }
                    there = (there + step).min(input.len());
                }
                Event::End { skip } => return Ok(Some((data, at + skip))),
            }
        }
    }

    #[test]
    fn good_and_bad() {
        let good = |text: &str| {
            decode(text.as_bytes(), 1).map(|whole| whole.map(|(data, _)| String::from_utf8_lossy(&data).into_owned()))
        };
        assert_eq!(good("5\r\nhello\r\n0\r\n\r\n"), Ok(Some("hello".into())));
        assert_eq!(good("5;a=\"b\"\r\nhello\r\n00\r\nX: y\r\n\r\n"), Ok(Some("hello".into())));
        assert_eq!(good("5 ; a\r\nhello\r\n0\r\n\r\n"), Ok(Some("hello".into())));
        assert_eq!(good("5\r\nhel"), Ok(None));
        for bad in [
            "\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\n",
            "-5\r\n",
            "5 \r\nhello\r\n",
            "5_0\r\n",
            "g\r\n",
            ";\r\n",
            "ffffffffffffffff\r\n",
            "5\rhello",
            "5;a\nb\r\n",
            "5;\0\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n : y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX : y\r\n\r\n",
            " 5\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r0\r\n\r\n",
        ] {
            assert_eq!(decode(bad.as_bytes(), 1), Err(Malformed), "{bad:?}");
        }
        assert_eq!(decode(format!("5;{}\r\n", "a".repeat(LINE_BYTES)).as_bytes(), 100), Err(Malformed));
        assert_eq!(decode(format!("0\r\nX: {}\r\n\r\n", "a".repeat(TRAILER_BYTES)).as_bytes(), 100), Err(Malformed));
    }

    #[test]
    fn trailers_keep_what_may_trail() {
        let mut decoder = Chunked::default();
        let section = b"0\r\nDigest: x\r\nHost: evil\r\nContent-Length: 5\r\nAuthorization: y\r\n\r\nnext";
        assert_eq!(decoder.next(section), Ok(Event::End { skip: section.len() - 4 }));
        let kept: Vec<_> = decoder.trailers.iter().map(|(_, name, _)| name).collect();
        assert_eq!(kept, [b"Digest"]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10), step in 1usize..70,
        ) {
            let mut wire = Vec::new();
            for piece in &chunks {
                super::super::chunk(&mut wire, piece);
            }
            super::super::last_chunk(&mut wire, &Headers::default());
            let length = wire.len();
            wire.extend_from_slice(b"GET / HTTP/1.1");
            prop_assert_eq!(decode(&wire, step), Ok(Some((chunks.concat(), length))));
        }

        #[test]
        fn no_bytes_can_make_it_panic_or_take_more_than_there_is(noise in prop::collection::vec(any::<u8>(), 0..100), step in 1usize..20) {
            if let Ok(Some((data, taken))) = decode(&noise, step) {
                prop_assert!(data.len() <= taken && taken <= noise.len());
            }
        }
    }
}
