//! HTTP/1: request after request on one connection.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::net::close_with_reset;
use weirgate_shared::reason::Reason;

use super::{Downstream, Piece};
use crate::client::Client;
use crate::exchange::{self, Scratch};
use crate::http1::{self, Decoder, Departure, HeadScan, parse_request};
use crate::http2::PREFACE;
use crate::io::Stream;
use crate::message::{Framing, Headers, RequestHead, ResponseHead};
use crate::tunnel::Pipe;

/// Own answers that may wait for being written together.
const PENDING_BYTES: usize = 64 * 1024;
/// Bytes and time that a closing connection reads on, so that its last answer is not lost to a reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_MS: u64 = 2_000;

/// What no HTTP/1 request begins with.
const PREFACE_METHOD: &[u8] = PREFACE.split_at(4).0;

/// A connection whose requests are being served.
pub(crate) struct Connection {
    client: Client,
    stream: Stream,
    /// The client may still be sending what nobody will read.
    unread: Cell<bool>,
    /// An answer was broken off: the end must not look like a good one.
    broken: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(client: Client, stream: Stream) -> Self {
        Self { client, stream, unread: Cell::new(false), broken: Cell::new(false) }
    }
}

impl Downstream for Connection {
    type Body = Decoder;

    const UPGRADED: u16 = 101;

    fn client(&self) -> &Client {
        &self.client
    }

    fn deadline(&self) -> &Deadline {
        &self.stream.deadline
    }

    fn take_whole_body(&self, framing: Framing, body: &mut Vec<u8>) -> bool {
        let mut input = self.stream.input.borrow_mut();
        match framing {
            Framing::Length(length) if input.len() as u64 >= length => {
                body.extend_from_slice(&input.bytes()[..length as usize]);
                input.consume(length as usize);
                true
            }
            _ => false,
        }
    }

    fn body(&self, framing: Framing) -> Decoder {
        Decoder::new(framing)
    }

    fn next_piece(&self, body: &mut Decoder, take: impl FnMut(&[u8])) -> Result<Piece, Reason> {
        self.stream.next_piece(body, take).map_err(|_| Reason::BadRequestFraming)
    }

    fn trailers<'a>(&self, body: &'a Decoder) -> Option<&'a Headers> {
        body.trailers()
    }

    async fn more_body(&self, _body: &mut Decoder) -> io::Result<bool> {
        self.stream.read().await.map(|count| count > 0)
    }

    /// Take the body off the input when all of it is there. Otherwise the connection must close.
    fn skip_body(&self, head: &RequestHead) -> bool {
        let mut decoder = Decoder::new(head.framing);
        loop {
            match self.next_piece(&mut decoder, |_| ()) {
                Ok(Piece::Data) => {}
                Ok(Piece::End) => return head.keep_alive,
                _ => {
                    self.unread.set(true);
                    return false;
                }
            }
        }
    }

    fn leave_body(&self) {
        self.unread.set(true);
    }

    fn spoil(&self) {
        self.broken.set(true);
    }

    fn break_off(&self, _reason: Reason) {
        self.broken.set(true);
        close_with_reset(self.stream.io.borrow().socket().as_fd());
    }

    fn interim(&self, out: &mut Vec<u8>, head: &ResponseHead) {
        http1::interim(out, head);
    }

    fn head(&self, out: &mut Vec<u8>, head: &ResponseHead, departure: Departure, _ends: bool) {
        http1::response_head(out, head, departure);
    }

    fn data(&self, out: &mut Vec<u8>, data: &[u8], framing: Framing) {
        http1::body_data(out, data, framing);
    }

    fn end(&self, out: &mut Vec<u8>, trailers: Option<&Headers>, framing: Framing) {
        http1::body_end(out, trailers, framing);
    }

    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let written = self.stream.write_all(out, stall_ms, limit_ms).await;
        out.clear();
        written
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(context)
    }

    fn is_gone(&self) -> bool {
        self.stream.is_reset()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)> {
        Some(Pipe::of(&self.stream))
    }
}

/// What became of waiting for a request.
enum Next {
    /// A whole head; the time of its first byte.
    Request(u64),
    /// The client is done, or has been idle for too long.
    Finished,
    /// It must be answered with this, and the connection closed.
    Refuse(Reason, u64),
}

impl Connection {
    /// Serve requests until one side has had enough.
    pub(crate) async fn run(self) {
        let mut number = 0;
        loop {
            if number > 0 || self.stream.input.borrow().is_empty() {
                match self.wait_for_bytes(number).await {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return self.close().await,
                }
            }
            if number == 0 && self.speaks_http2().await {
                let Self { client, stream, .. } = self;
                return Box::pin(super::http2::serve(client, stream)).await;
            }
            // Buffers are lent only while there is something to do.
            let mut scratch = self.client.gateway.take_scratch();
            let keep = self.serve_available(&mut scratch, &mut number).await;
            self.client.gateway.give_scratch(scratch);
            if !keep {
                return self.close().await;
            }
        }
    }

    /// Whether the client begins with the preface of HTTP/2 in cleartext (RFC 9113 §3.3).
    async fn speaks_http2(&self) -> bool {
        if self.client.facts.tls || !self.client.gateway.runtime().snapshot.gateway.http2_cleartext {
            return false;
        }
        loop {
            {
                let input = self.stream.input.borrow();
                let known = input.len().min(PREFACE_METHOD.len());
                if input.bytes()[..known] != PREFACE_METHOD[..known] {
                    return false;
                }
                if known == PREFACE_METHOD.len() {
                    return true;
                }
            }
            if !matches!(self.stream.read().await, Ok(count) if count > 0) {
                return false;
            }
        }
    }

    /// Wait, holding nothing, until the client sends. False = it has closed or said nothing for too long.
    async fn wait_for_bytes(&self, number: u64) -> io::Result<bool> {
        if !self.stream.input.borrow().is_empty() {
            return Ok(true);
        }
        let runtime = self.client.gateway.runtime();
        let gateway = &runtime.snapshot.gateway;
        self.stream.deadline.set(if number == 0 { gateway.request_head_ms } else { gateway.idle_ms });
        drop(runtime);
        self.stream.deadline.set_idle(number > 0);
        let count = self.stream.read().await;
        self.stream.deadline.set_idle(false);
        Ok(count? > 0)
    }

    /// Serve requests for as long as their bytes are there. False = the connection has to be closed.
    async fn serve_available(&self, scratch: &mut Scratch, number: &mut u64) -> bool {
        loop {
            let next = self.read_head(scratch).await;
            *number += 1;
            let keep = match next {
                Next::Finished => false,
                Next::Request(start_us) => exchange::handle(self, scratch, *number, start_us).await,
                Next::Refuse(reason, start_us) => {
                    exchange::refuse(self, scratch, *number, start_us, reason);
                    false
                }
            };
            let pending = !keep || self.stream.input.borrow().is_empty() || scratch.out.len() >= PENDING_BYTES;
            if pending && !self.flush(&mut scratch.out).await {
                return false;
            }
            if !keep || self.stream.input.borrow().is_empty() {
                return keep;
            }
        }
    }

    /// Write what waits for the client.
    async fn flush(&self, out: &mut Vec<u8>) -> bool {
        if out.is_empty() {
            return true;
        }
        let stall_ms = self.client.gateway.runtime().snapshot.gateway.idle_ms;
        self.send(out, stall_ms, 0).await.is_ok()
    }

    /// A request's head, from bytes that are there and more as they come.
    async fn read_head(&self, scratch: &mut Scratch) -> Next {
        let runtime = self.client.gateway.runtime();
        let start_us = clock::process_us();
        let mut scan = HeadScan::default();
        let mut skipped_line = false;
        let mut timed = false;
        loop {
            {
                let mut input = self.stream.input.borrow_mut();
                // One empty line before a request is forgiven (RFC 9112 §2.2).
                if !skipped_line && input.bytes().starts_with(b"\r\n") {
                    input.consume(2);
                    skipped_line = true;
                }
                let waiting = input.is_empty() || (!skipped_line && input.bytes() == b"\r");
                if !waiting {
                    match parse_request(input.bytes(), &mut scan, &runtime.limits, &mut scratch.head) {
                        Ok(Some(length)) => {
                            input.consume(length);
                            return Next::Request(start_us);
                        }
                        Ok(None) => {}
                        Err(reason) => return Next::Refuse(reason, start_us),
                    }
                }
            }
            // Answers to earlier requests must not wait for a slow one.
            if !self.flush(&mut scratch.out).await {
                return Next::Finished;
            }
            if !timed {
                timed = true;
                self.stream.deadline.set(runtime.snapshot.gateway.request_head_ms);
            }
            match self.stream.read().await {
                Ok(0) => return Next::Finished,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Next::Refuse(Reason::RequestTimeout, start_us);
                }
                Err(_) => return Next::Finished,
            }
        }
    }

    /// End the connection so that the client still gets all that was written: where bytes of it are
    /// unread, half-close and read on for a little while, since a plain close would reset (RFC 9112 §9.6).
    async fn close(self) {
        let unread = self.unread.get() || !self.stream.input.borrow().is_empty();
        self.stream.deadline.set(LINGER_MS);
        if self.broken.get() || self.stream.ended() || !(unread || self.client.facts.tls) {
            return;
        }
        if self.stream.shutdown().await.is_err() || !unread {
            return;
        }
        let mut read = 0;
        while read < LINGER_BYTES {
            let buffered = self.stream.input.borrow().len();
            self.stream.input.borrow_mut().consume(buffered);
            match self.stream.read().await {
                Ok(count) if count > 0 => read += count,
                _ => break,
            }
        }
    }
}
