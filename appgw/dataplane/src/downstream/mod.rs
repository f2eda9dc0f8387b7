//! The client's side of one exchange: where a request's body comes from and where its answer goes.
//!
//! One implementation for each way of HTTP; routing, filters and pools never know which.

pub(crate) mod http1;
pub(crate) mod http2;

use std::io;
use std::task::{Context, Poll};

use weirgate_shared::deadline::Deadline;
use weirgate_shared::reason::Reason;

use crate::client::Client;
use crate::http1::Departure;
use crate::io::Stream;
use crate::message::{Framing, Headers, RequestHead, ResponseHead};
use crate::tunnel::Pipe;

/// What has come of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Some bytes, which were taken.
    Data,
    /// All of it has been taken.
    End,
    /// Nothing more is there yet.
    Starved,
}

/// The client's side of one exchange.
pub(crate) trait Downstream {
    /// The state of a request body that is being read.
    type Body;

    /// The status that a client sees when its upgrade is accepted.
    const UPGRADED: u16;

    /// Whose request it is.
    fn client(&self) -> &Client;

    /// The deadline of waits for the client.
    fn deadline(&self) -> &Deadline;

    /// Put a request's whole body into `body` when all of it is here and has no trailers. Says whether it was.
    fn take_whole_body(&self, framing: Framing, body: &mut Vec<u8>) -> bool;

    /// Begin to read a body.
    fn body(&self, framing: Framing) -> Self::Body;

    /// Give the next bytes of a body to `take`.
    fn next_piece(&self, body: &mut Self::Body, take: impl FnMut(&[u8])) -> Result<Piece, Reason>;

    /// The trailer fields of a body that has ended.
    fn trailers<'a>(&self, body: &'a Self::Body) -> Option<&'a Headers>;

    /// Wait for more of a body, within the deadline; false = the client has gone.
    async fn more_body(&self, body: &mut Self::Body) -> io::Result<bool>;

    /// A request's body will not be read: forget what is here of it. False = no further request can follow.
    fn skip_body(&self, head: &RequestHead) -> bool;

    /// The answer is out before all of the request's body was read.
    fn leave_body(&self);

    /// The end of the client's connection must not look like a good one.
    fn spoil(&self);

    /// Break off an answer of which a part is out, in a way that the client sees.
    fn break_off(&self, reason: Reason);

    /// Write an interim answer.
    fn interim(&self, out: &mut Vec<u8>, head: &ResponseHead);

    /// Write an answer's head; `ends` = no body follows.
    fn head(&self, out: &mut Vec<u8>, head: &ResponseHead, departure: Departure, ends: bool);

    /// Write bytes of an answer's body.
    fn data(&self, out: &mut Vec<u8>, data: &[u8], framing: Framing);

    /// End an answer that had, or could have had, a body.
    fn end(&self, out: &mut Vec<u8>, trailers: Option<&Headers>, framing: Framing);

    /// Send what was written. `TimedOut` when there is no progress for `stall_ms`, or at `limit_ms`.
    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()>;

    /// Ready once the client has given up on the answer.
    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Whether [`Self::poll_gone`] has seen that.
    fn is_gone(&self) -> bool;

    /// The byte stream, where the exchange has it for itself.
    fn stream(&self) -> Option<&Stream>;

    /// Both directions as bytes, after an upgrade, with what was already read.
    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)>;
}
