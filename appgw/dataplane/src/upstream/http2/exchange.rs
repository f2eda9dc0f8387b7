//! One request on a shared connection, and its answer.

use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::response::Parts;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::endpoint::Endpoint;
use weirgate_shared::reason::Reason;

use super::super::{Asked, Upstream, UpstreamPool};
use super::share::Claim;
use crate::downstream::Piece;
use crate::http1::HeadScan;
use crate::http2::{self, Outflow};
use crate::io::Stream;
use crate::message::{Framing, Headers, ResponseHead};
use crate::tunnel::{Pipe, Tunnel};

/// What has come of the answer.
enum Answer {
    Unasked,
    Awaited(ResponseFuture),
    /// Its head has come.
    Body(RecvStream),
}

/// A stream of a shared connection.
pub(crate) struct Exchange {
    claim: Claim,
    reused: bool,
    deadline: Deadline,
    scheme: &'static str,
    /// Its address is the authority of requests that name none.
    endpoint: Rc<Endpoint>,
    upload: Outflow,
    answer: RefCell<Answer>,
    head: RefCell<Option<Parts>>,
    data: RefCell<Bytes>,
    trailers: RefCell<Headers>,
    ended: Cell<bool>,
    failed: Cell<bool>,
    unprocessed: Cell<bool>,
    lost: Cell<bool>,
    verdict: Cell<Option<Reason>>,
    /// An upgrade was asked for, or has been granted.
    upgrade: Cell<bool>,
}

impl Exchange {
    pub(super) fn new(
        claim: Claim,
        reused: bool,
        deadline: Deadline,
        scheme: &'static str,
        endpoint: Rc<Endpoint>,
    ) -> Self {
        Self {
            claim,
            reused,
            deadline,
            scheme,
            endpoint,
            upload: Outflow::default(),
            answer: RefCell::new(Answer::Unasked),
            head: RefCell::default(),
            data: RefCell::default(),
            trailers: RefCell::default(),
            ended: Cell::new(false),
            failed: Cell::new(false),
            unprocessed: Cell::new(false),
            lost: Cell::new(false),
            verdict: Cell::new(None),
            upgrade: Cell::new(false),
        }
    }

    /// Remember whether the endpoint says that it has not looked at the request (RFC 9113 §8.7).
    fn broken(&self, error: &h2::Error) -> io::Error {
        self.failed.set(true);
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // A stream is told of GOAWAY only when it lies beyond the last one that the endpoint takes.
        if (error.is_go_away() || refused) && error.is_remote() {
            self.unprocessed.set(true);
        }
        self.lost.set(!error.is_reset());
        if error.is_library() {
            // What the crate refuses, it refuses for its form.
            self.verdict.set(Some(Reason::UpstreamBadResponse));
        }
        io::ErrorKind::ConnectionReset.into()
    }

    fn poll_more(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.failed.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut answer = self.answer.borrow_mut();
        match &mut *answer {
            Answer::Unasked => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Answer::Awaited(response) => {
                match response.poll_informational(context) {
                    Poll::Ready(Some(Ok(interim))) => {
                        *self.head.borrow_mut() = Some(interim.into_parts().0);
                        return Poll::Ready(Ok(1));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(&error))),
                    Poll::Ready(None) | Poll::Pending => {}
                }
                match Pin::new(response).poll(context) {
                    Poll::Ready(Ok(response)) => {
                        let (head, body) = response.into_parts();
                        *self.head.borrow_mut() = Some(head);
                        *answer = Answer::Body(body);
                        Poll::Ready(Ok(1))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error))),
                    Poll::Pending => Poll::Pending,
                }
            }
            Answer::Body(body) => match body.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => {
                    *self.data.borrow_mut() = data;
                    Poll::Ready(Ok(1))
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Err(self.broken(&error))),
                Poll::Ready(None) => match body.poll_trailers(context) {
                    Poll::Ready(Ok(trailers)) => {
                        *self.trailers.borrow_mut() =
                            trailers.map(|fields| http2::read_trailers(&fields)).unwrap_or_default();
                        self.ended.set(true);
                        Poll::Ready(Ok(1))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error))),
                    Poll::Pending => Poll::Pending,
                },
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn has_news(&self) -> bool {
        self.head.borrow().is_some() || !self.data.borrow().is_empty()
    }
}

impl Upstream for Exchange {
    type Body = Headers;

    const PROVES_UPGRADE: bool = false;

    fn is_reused(&self) -> bool {
        self.reused
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn ask(&self, asked: &Asked<'_>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        let upgrade = asked.head.upgrade.is_some();
        let share = self.claim.share();
        if upgrade {
            self.deadline.set_within(stall_ms, limit_ms);
            let mut settled = pin!(share.settled());
            poll_fn(|context| match settled.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut)),
            })
            .await?;
        }
        let request = http2::request(asked.head, asked.extra, self.scheme, self.endpoint.address.as_bytes());
        let request = request.ok_or(io::ErrorKind::InvalidInput)?;
        let body = &asked.wire[asked.head_length..];
        let unprocessed = || {
            self.failed.set(true);
            self.unprocessed.set(true);
            self.lost.set(true);
            io::Error::from(io::ErrorKind::ConnectionReset)
        };
        let Some(mut sender) = share.sender() else { return Err(unprocessed()) };
        if upgrade && !sender.is_extended_connect_protocol_enabled() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ends = body.is_empty() && !asked.body_follows && !upgrade;
        // An error here comes before a byte was sent.
        let Ok((response, stream)) = sender.send_request(request, ends) else {
            share.retire();
            return Err(unprocessed());
        };
        self.upgrade.set(upgrade);
        *self.answer.borrow_mut() = Answer::Awaited(response);
        if ends {
            return Ok(());
        }
        self.upload.open(stream);
        if body.is_empty() {
            return Ok(());
        }
        // All of it was here; it goes as the windows open, beside the wait for an answer.
        self.upload.give(body);
        self.upload.end(None);
        let _ = self.upload.poll_give(&mut Context::from_waker(Waker::noop()));
        Ok(())
    }

    fn data(&self, out: &mut Vec<u8>, data: &[u8], _framing: Framing) {
        out.extend_from_slice(data);
    }

    fn end(&self, _out: &mut Vec<u8>, trailers: Option<&Headers>, _framing: Framing) {
        self.upload.end(trailers);
    }

    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        self.upload.send(out, &self.deadline, stall_ms, limit_ms).await
    }

    fn next_head(&self, _scan: &mut HeadScan, to_head: bool, head: &mut ResponseHead) -> Result<bool, Reason> {
        if !self.has_news() && !self.failed.get() {
            let _ = self.poll_more(&mut Context::from_waker(Waker::noop()));
        }
        let Some(parts) = self.head.borrow_mut().take() else { return Ok(false) };
        let ends = match &*self.answer.borrow() {
            Answer::Body(body) => body.is_end_stream(),
            _ => false,
        };
        http2::read_response(&parts, ends, to_head, head)?;
        if self.upgrade.get() && parts.status.is_success() {
            http2::accept_upgrade(head);
        }
        Ok(true)
    }

    async fn more(&self, gone: impl Fn(&mut Context<'_>) -> Poll<()>) -> io::Result<usize> {
        poll_fn(|context| {
            // An endpoint that takes no more may have answered all the same.
            let _ = self.upload.poll_give(context);
            if let Poll::Ready(result) = self.poll_more(context) {
                return Poll::Ready(result);
            }
            if gone(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    fn body(&self, framing: Framing) -> Headers {
        if framing == Framing::None {
            self.ended.set(true);
        }
        Headers::default()
    }

    fn is_whole(&self, _body: &Headers) -> bool {
        self.ended.get() || matches!(&*self.answer.borrow(), Answer::Body(body) if body.is_end_stream())
    }

    fn next_piece(&self, body: &mut Headers, mut take: impl FnMut(&[u8])) -> Result<Piece, Reason> {
        if self.data.borrow().is_empty() && !self.ended.get() {
            // What has come already; who waits for more is woken by `more`.
            let _ = self.poll_more(&mut Context::from_waker(Waker::noop()));
        }
        let data = std::mem::take(&mut *self.data.borrow_mut());
        if data.is_empty() {
            if !self.ended.get() {
                return Ok(Piece::Starved);
            }
            *body = self.trailers.take();
            return Ok(Piece::End);
        }
        take(&data);
        // The endpoint may send as much again: this is what makes it as slow as the client.
        if let Answer::Body(body) = &mut *self.answer.borrow_mut() {
            let _ = body.flow_control().release_capacity(data.len());
        }
        Ok(Piece::Data)
    }

    fn trailers<'a>(&self, body: &'a Headers) -> Option<&'a Headers> {
        Some(body)
    }

    fn ends_with_connection(&self, _body: &Headers) -> bool {
        false
    }

    fn bulk<'a>(&'a self, _body: &Headers) -> Option<(&'a Stream, u64)> {
        None
    }

    fn taken(&self, _body: &mut Headers) {}

    fn is_clean(&self) -> bool {
        true
    }

    fn may_refuse(&self) -> bool {
        true
    }

    fn is_lost(&self) -> bool {
        self.lost.get()
    }

    fn distrust(&self) {
        self.claim.share().retire();
    }

    fn has_unsent(&self) -> bool {
        self.upload.has_unsent()
    }

    fn verdict(&self) -> Option<Reason> {
        self.verdict.get()
    }

    fn is_unprocessed(&self) -> bool {
        self.unprocessed.get()
    }

    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)> {
        let send = self.upload.take()?;
        let receive = RefMut::filter_map(self.answer.borrow_mut(), |answer| match answer {
            Answer::Body(body) => Some(body),
            _ => None,
        });
        let tunnel = Tunnel::new(receive.ok()?, send, self.data.take());
        Some((Pipe::Stream(tunnel), Vec::new()))
    }

    fn release(self, pool: &UpstreamPool, _index: usize, _keep: bool) {
        drop(self);
        pool.tell_freed();
    }
}
