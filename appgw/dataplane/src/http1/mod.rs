//! The HTTP/1 codec (RFC 9112), sans-IO: bytes in, heads and body pieces out. No sockets inside.
//!
//! Parsing is strict, and every message is written anew from its parsed form: what one side could
//! read in two ways never reaches the other.

mod body;
mod chunked;
mod encode;
mod request;
mod response;
mod scan;

pub use body::{Decoded, Decoder};
pub use chunked::{Chunked, Event, Malformed, may_trail};
pub use encode::{Departure, body_data, body_end, chunk, interim, last_chunk, phrase, request_head, response_head};
pub use request::parse_request;
pub use response::{HEADER_BYTES as RESPONSE_HEADER_BYTES, has_body, parse_response};
pub use scan::HeadScan;

pub use crate::target::{EncodedSlashes, PathPolicy};

/// Limits of a request head, and how its path is read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The whole head.
    pub header_bytes: usize,
    /// Number of fields.
    pub header_count: usize,
    /// The request target.
    pub uri_bytes: usize,
    /// How its path is normalised.
    pub paths: PathPolicy,
}

/// The most fields that any head may have, whatever is configured.
pub const MAX_FIELDS: usize = 256;

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The elements of a comma-separated list, without the empty ones (RFC 9110 §5.6.1).
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// A Content-Length value: digits only, no sign, no list, no overflow (RFC 9112 §6.3).
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}
