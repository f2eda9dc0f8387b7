//! The endpoint's side of one exchange, and the connections that it goes over.
//!
//! One implementation of [`Upstream`] for each way of HTTP; routing, filters and clients never know which.

mod connect;
pub(crate) mod http1;
pub(crate) mod http2;
mod pool;

use std::io;
use std::task::{Context, Poll};

use weirgate_shared::deadline::Deadline;
use weirgate_shared::reason::Reason;

use crate::downstream::Piece;
use crate::http1::HeadScan;
use crate::io::Stream;
use crate::message::{Framing, Headers, RequestHead, ResponseHead};
use crate::tunnel::Pipe;

pub(crate) use pool::{Connections, Obtained, PoolTls, Reuse, UpstreamPool, UpstreamStats, Waiting, Wish};

/// A request as an endpoint gets it.
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a RequestHead,
    /// Field lines that Weirgate adds of its own.
    pub(crate) extra: &'a [u8],
    /// The head in HTTP/1.1, where the pool may speak that, and behind it all of a body that was here already.
    pub(crate) wire: &'a [u8],
    /// Where that body begins.
    pub(crate) head_length: usize,
    /// A body, or the rest of one, is still to come.
    pub(crate) body_follows: bool,
}

/// The endpoint's side of one exchange.
pub(crate) trait Upstream {
    /// The state of an answer's body that is being read.
    type Body;

    /// An accepted upgrade comes with a digest of the request's key.
    const PROVES_UPGRADE: bool;

    /// The connection has carried a request before.
    fn is_reused(&self) -> bool;

    /// The deadline of waits for the endpoint.
    fn deadline(&self) -> &Deadline;

    /// Send the request, as far as it is here. `InvalidInput` when it cannot be said in this HTTP,
    /// `Unsupported` when the endpoint cannot do what it asks for.
    async fn ask(&self, asked: &Asked<'_>, stall_ms: u64, limit_ms: u64) -> io::Result<()>;

    /// Write bytes of the request's body.
    fn data(&self, out: &mut Vec<u8>, data: &[u8], framing: Framing);

    /// End the request's body.
    fn end(&self, out: &mut Vec<u8>, trailers: Option<&Headers>, framing: Framing);

    /// Send what was written. `TimedOut` when there is no progress for `stall_ms`, or at `limit_ms`.
    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()>;

    /// Take the next head, interim or final, from what has come. False = it is not all here yet.
    fn next_head(&self, scan: &mut HeadScan, to_head: bool, head: &mut ResponseHead) -> Result<bool, Reason>;

    /// Wait for more, within the deadline; 0 = the endpoint has closed. `ConnectionReset` as soon as
    /// `gone` is ready.
    async fn more(&self, gone: impl Fn(&mut Context<'_>) -> Poll<()>) -> io::Result<usize>;

    /// Begin to read the answer's body.
    fn body(&self, framing: Framing) -> Self::Body;

    /// Whether nothing of the body is left, or ever was.
    fn is_whole(&self, body: &Self::Body) -> bool;

    /// Give the next bytes of the body to `take`.
    fn next_piece(&self, body: &mut Self::Body, take: impl FnMut(&[u8])) -> Result<Piece, Reason>;

    /// The trailer fields of a body that has ended.
    fn trailers<'a>(&self, body: &'a Self::Body) -> Option<&'a Headers>;

    /// Whether a body ends with the connection.
    fn ends_with_connection(&self, body: &Self::Body) -> bool;

    /// The byte stream and how much of the body is left on it, where both are known.
    fn bulk<'a>(&'a self, body: &Self::Body) -> Option<(&'a Stream, u64)>;

    /// The rest of the body was taken by other means.
    fn taken(&self, body: &mut Self::Body);

    /// Whether nothing has come behind the answer.
    fn is_clean(&self) -> bool;

    /// Whether the endpoint can say that it has not looked at a request.
    fn may_refuse(&self) -> bool;

    /// Whether it is the connection that failed, and not this exchange alone.
    fn is_lost(&self) -> bool;

    /// The connection hangs, perhaps: it shall carry no further request.
    fn distrust(&self);

    /// Whether the endpoint has not taken all of a body that was sent.
    fn has_unsent(&self) -> bool;

    /// What is wrong with the answer, where that is known better than that it broke off.
    fn verdict(&self) -> Option<Reason>;

    /// Whether the endpoint says that it has not looked at the request, so that any may be sent again.
    fn is_unprocessed(&self) -> bool;

    /// Both directions as bytes, after an upgrade, with what was already read.
    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)>;

    /// The answer is whole, or was given up; `keep` = the connection can carry another request.
    fn release(self, pool: &UpstreamPool, index: usize, keep: bool);
}
