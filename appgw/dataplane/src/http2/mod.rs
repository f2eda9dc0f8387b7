//! HTTP/2 (RFC 9113): messages to and from the internal form, and a watch on the frames.
//!
//! Frames, HPACK and flow control are the `h2` crate's; its messages are checked and made into ours here.

mod request;
mod response;
mod watch;

pub use request::{read_request, read_trailers};
pub use response::{response, trailers};
pub use watch::{Flood, FrameWatch};

/// What a client that speaks HTTP/2 at once begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
