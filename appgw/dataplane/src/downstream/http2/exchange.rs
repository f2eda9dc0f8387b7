//! One request on an HTTP/2 connection, and its answer.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::reason::Reason;

use super::Open;
use crate::client::Client;
use crate::downstream::{Downstream, Piece};
use crate::exchange;
use crate::http1::Departure;
use crate::http2::{self, Outflow, read_request, read_trailers};
use crate::io::Stream;
use crate::message::{Framing, Headers, RequestHead, ResponseHead};
use crate::tunnel::{Pipe, Tunnel};
use crate::wire::Wire;

/// Serve one request. Its head is read at once, so that the task does not hold what it came in.
pub(super) fn serve(
    client: Rc<Client>,
    wire: Wire,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    number: u64,
    open: Open,
) -> impl Future<Output = ()> + use<> {
    let start_us = clock::process_us();
    let runtime = client.gateway.runtime();
    let mut scratch = client.gateway.take_scratch();
    let (parts, body) = request.into_parts();
    let read = read_request(&parts, body.is_end_stream(), &runtime.limits, &mut scratch.head);
    let idle_ms = runtime.snapshot.gateway.idle_ms;
    let down = StreamExchange {
        wire,
        deadline: client.gateway.deadlines.register(),
        client,
        request: RefCell::new(body),
        early: RefCell::default(),
        respond: RefCell::new(Some(respond)),
        written: RefCell::default(),
        outflow: Outflow::default(),
        to_head: parts.method == Method::HEAD,
        gone: Cell::new(false),
        _open: open,
    };
    async move {
        match read {
            Ok(()) => {
                exchange::handle(&down, &mut scratch, number, start_us).await;
            }
            Err(reason) => exchange::refuse(&down, &mut scratch, number, start_us, reason),
        }
        let _ = down.send(&mut scratch.out, idle_ms, 0).await;
        down.client.gateway.give_scratch(scratch);
        if !down.gone.get() && !down.request.borrow().is_end_stream() {
            Box::pin(down.linger()).await;
        }
    }
}

/// So much of a request's body is sent together with its head, when nothing more follows.
const WHOLE_BYTES: usize = 64 * 1024;

/// Bytes and time for a request body that nobody needs.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_MS: u64 = 2_000;

/// A stream of an HTTP/2 connection.
struct StreamExchange {
    client: Rc<Client>,
    wire: Wire,
    deadline: Deadline,
    request: RefCell<RecvStream>,
    /// What was taken of the body before it was known that there is more.
    early: RefCell<Body>,
    /// What sends the head; `None` once it has.
    respond: RefCell<Option<SendResponse<Bytes>>>,
    /// A head that is written and not sent, and whether it is the whole answer.
    written: RefCell<Option<(Response<()>, bool)>>,
    /// What sends the body.
    outflow: Outflow,
    /// The answer has no body, whatever is written.
    to_head: bool,
    /// The client has reset the stream, or the connection is gone.
    gone: Cell<bool>,
    _open: Open,
}

/// What has come of a request's body and was not taken yet.
#[derive(Default)]
struct Body {
    data: Bytes,
    /// The client has been told already that it may send as much again.
    released: bool,
    ended: bool,
    trailers: Headers,
}

fn broken(_: h2::Error) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl StreamExchange {
    fn poll_body(&self, body: &mut Body, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut request = self.request.borrow_mut();
        match request.poll_data(context) {
            Poll::Ready(Some(Ok(data))) => {
                body.data = data;
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(broken(error))),
            Poll::Ready(None) => request.poll_trailers(context).map(|fields| {
                if let Some(fields) = fields.map_err(broken)? {
                    if self.wire.take_bad_trailers(request.stream_id().as_u32()) {
                        if self.is_answered() {
                            // The crate resets no stream of which all is said.
                            self.wire.condemn(h2::Reason::PROTOCOL_ERROR);
                        }
                        self.reset(h2::Reason::PROTOCOL_ERROR);
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    body.trailers = read_trailers(&fields);
                }
                body.ended = true;
                Ok(true)
            }),
            Poll::Pending => Poll::Pending,
        }
    }

    /// After an answer that did not wait for the request's body: take some of it, since clients take a reset
    /// behind the answer for a failure, though it says that there is none (RFC 9113 §8.1).
    async fn linger(&self) {
        let mut left = LINGER_BYTES;
        let mut body = Body::default();
        self.deadline.set(LINGER_MS);
        while !self.gone.get() && left > 0 && !self.request.borrow().is_end_stream() {
            if !matches!(self.more_body(&mut body).await, Ok(true)) {
                return;
            }
            let _ = self.next_piece(&mut body, |data| left = left.saturating_sub(data.len()));
        }
    }

    /// Whether all of the answer was given to the connection.
    fn is_answered(&self) -> bool {
        self.respond.borrow().is_none() && !self.outflow.is_open()
    }

    fn reset(&self, code: h2::Reason) {
        self.written.take();
        match &mut *self.respond.borrow_mut() {
            Some(respond) => respond.send_reset(code),
            None => self.outflow.reset(code),
        }
    }

    fn take_data(&self, body: &mut Body, mut take: impl FnMut(&[u8])) {
        let data = std::mem::take(&mut body.data);
        take(&data);
        if !std::mem::take(&mut body.released) {
            // The client may send as much again: this is what makes it as slow as the endpoint.
            let _ = self.request.borrow_mut().flow_control().release_capacity(data.len());
        }
    }

    /// Send the head, if one was written: from here on it cannot be taken back.
    fn send_head(&self) -> io::Result<()> {
        let Some((response, ends)) = self.written.take() else { return Ok(()) };
        let mut respond = self.respond.borrow_mut().take().ok_or(io::ErrorKind::BrokenPipe)?;
        let stream = respond.send_response(response, ends).map_err(broken)?;
        if !ends {
            self.outflow.open(stream);
        }
        Ok(())
    }
}

impl Downstream for StreamExchange {
    type Body = Body;

    // RFC 8441 §5.
    const UPGRADED: u16 = 200;

    fn client(&self) -> &Client {
        &self.client
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    fn take_whole_body(&self, _framing: Framing, body: &mut Vec<u8>) -> bool {
        let mut early = self.early.borrow_mut();
        let mut context = Context::from_waker(Waker::noop());
        while body.len() < WHOLE_BYTES {
            match self.poll_body(&mut early, &mut context) {
                Poll::Ready(Ok(true)) if early.ended => break,
                Poll::Ready(Ok(true)) => self.take_data(&mut early, |data| body.extend_from_slice(data)),
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        if early.ended && early.trailers.is_empty() {
            return true;
        }
        // The rest is still to come: what is here is read first then.
        early.data = Bytes::from(std::mem::take(body));
        early.released = !early.data.is_empty();
        false
    }

    fn body(&self, _framing: Framing) -> Body {
        self.early.take()
    }

    fn next_piece(&self, body: &mut Body, mut take: impl FnMut(&[u8])) -> Result<Piece, Reason> {
        if body.data.is_empty() && !body.ended {
            // What has come already; who waits for more is woken by `more_body`.
            let _ = self.poll_body(body, &mut Context::from_waker(Waker::noop()));
        }
        if body.data.is_empty() {
            return Ok(if body.ended { Piece::End } else { Piece::Starved });
        }
        self.take_data(body, &mut take);
        Ok(Piece::Data)
    }

    fn trailers<'a>(&self, body: &'a Body) -> Option<&'a Headers> {
        Some(&body.trailers)
    }

    async fn more_body(&self, body: &mut Body) -> io::Result<bool> {
        poll_fn(|context| match self.poll_body(body, context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }

    /// What comes of it is dropped, and the client told to stop, when the exchange ends.
    fn skip_body(&self, _head: &RequestHead) -> bool {
        true
    }

    fn leave_body(&self) {}

    fn spoil(&self) {}

    fn break_off(&self, reason: Reason) {
        let code = if reason == Reason::ClientGone { h2::Reason::CANCEL } else { h2::Reason::INTERNAL_ERROR };
        self.reset(code);
    }

    fn interim(&self, _out: &mut Vec<u8>, head: &ResponseHead) {
        if let Some(respond) = &mut *self.respond.borrow_mut() {
            let _ = respond.send_informational(http2::response(head, Framing::None));
        }
    }

    fn head(&self, _out: &mut Vec<u8>, head: &ResponseHead, departure: Departure, ends: bool) {
        self.outflow.take_back();
        *self.written.borrow_mut() = Some((http2::response(head, departure.framing), ends || self.to_head));
    }

    fn data(&self, out: &mut Vec<u8>, data: &[u8], _framing: Framing) {
        if !self.to_head {
            out.extend_from_slice(data);
        }
    }

    fn end(&self, _out: &mut Vec<u8>, trailers: Option<&Headers>, _framing: Framing) {
        if self.to_head {
            return;
        }
        self.outflow.end(trailers);
    }

    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        if self.gone.get() {
            out.clear();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut sent = self.send_head();
        if sent.is_ok() {
            sent = self.outflow.send(out, &self.deadline, stall_ms, limit_ms).await;
        }
        out.clear();
        sent.inspect_err(|error| self.gone.set(error.kind() != io::ErrorKind::TimedOut))
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut *self.respond.borrow_mut() {
            Some(respond) => respond.poll_reset(context).map(|_| ()),
            None => self.outflow.poll_reset(context),
        };
        reset.map(|()| self.gone.set(true))
    }

    fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn stream(&self) -> Option<&Stream> {
        None
    }

    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)> {
        let send = self.outflow.take()?;
        Some((Pipe::Stream(Tunnel::new(self.request.borrow_mut(), send, Bytes::new())), Vec::new()))
    }
}
