//! HTTP/2 (RFC 9113): messages to and from the internal form, a watch on the frames, and what both sides of an
//! exchange need of a stream.
//!
//! Frames, HPACK and flow control are the `h2` crate's; its messages are checked and made into ours here.

mod keep_alive;
mod outflow;
mod request;
mod response;
mod watch;

pub(crate) use keep_alive::KeepAlive;
pub(crate) use outflow::Outflow;
pub use request::{read_request, read_trailers, request};
pub use response::{accept_upgrade, read_response, response, trailers};
pub use watch::{Flood, FrameWatch};

/// What a client that speaks HTTP/2 at once begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
