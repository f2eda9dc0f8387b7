//! A message's body, whatever its framing.

use super::chunked::{Chunked, Event, Malformed};
use crate::message::{Framing, Headers};

/// What the next bytes of the connection mean for the body.
pub type Decoded = Event;

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub enum Decoder {
    /// No body, or all of it was taken.
    Done,
    /// So many bytes are left.
    Length(u64),
    /// Chunked coding.
    Chunked(Box<Chunked>),
    /// Everything until the connection closes.
    UntilClose,
}

impl Decoder {
    /// The decoder for a framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Box::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Judge the bytes that come next; data that is reported counts as taken.
    pub fn next(&mut self, input: &[u8]) -> Result<Decoded, Malformed> {
        match self {
            Self::Done => Ok(Event::End { skip: 0 }),
            Self::Length(left) => {
                let length = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                if length == 0 {
                    return Ok(Event::More { skip: 0 });
                }
                *left -= length as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Event::Data { skip: 0, length })
            }
            Self::Chunked(chunked) => chunked.next(input),
            Self::UntilClose if input.is_empty() => Ok(Event::More { skip: 0 }),
            Self::UntilClose => Ok(Event::Data { skip: 0, length: input.len() }),
        }
    }

    /// Whether the end of the connection is the end of the body.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// The trailer fields, once the body has ended.
    #[must_use]
    pub fn trailers(&self) -> Option<&Headers> {
        match self {
            Self::Chunked(chunked) => Some(&chunked.trailers),
            _ => None,
        }
    }
}
