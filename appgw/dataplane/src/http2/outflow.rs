//! The body that goes out on one stream, as fast as the other side's windows let it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use weirgate_shared::deadline::Deadline;

use super::trailers;
use crate::message::Headers;

/// How a body ends that is being written.
enum Ending {
    Plain,
    Trailers(HeaderMap),
}

/// The sending half of a stream.
#[derive(Default)]
pub(crate) struct Outflow {
    stream: RefCell<Option<SendStream<Bytes>>>,
    unsent: RefCell<Bytes>,
    ending: Cell<Option<Ending>>,
}

impl Outflow {
    /// A body follows.
    pub(crate) fn open(&self, stream: SendStream<Bytes>) {
        *self.stream.borrow_mut() = Some(stream);
    }

    /// Whether there is still something to say.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.borrow().is_some()
    }

    /// What is sent next is the last of it.
    pub(crate) fn end(&self, fields: Option<&Headers>) {
        self.ending.set(Some(fields.and_then(trailers).map_or(Ending::Plain, Ending::Trailers)));
    }

    /// Forget an end that was not sent yet.
    pub(crate) fn take_back(&self) {
        self.ending.set(None);
    }

    /// The stream itself, for other uses.
    pub(crate) fn take(&self) -> Option<SendStream<Bytes>> {
        self.stream.borrow_mut().take()
    }

    /// Break off.
    pub(crate) fn reset(&self, code: h2::Reason) {
        self.take_back();
        if let Some(stream) = &mut *self.stream.borrow_mut() {
            stream.send_reset(code);
        }
    }

    /// Ready once the other side has reset the stream. Pending without a wake-up when nothing is open.
    pub(crate) fn poll_reset(&self, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => stream.poll_reset(context).map(|_| ()),
            None => Poll::Pending,
        }
    }

    /// Take bytes to be sent by [`Self::poll_give`].
    pub(crate) fn give(&self, bytes: &[u8]) {
        *self.unsent.borrow_mut() = Bytes::copy_from_slice(bytes);
    }

    /// Whether bytes wait for the other side's windows.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    /// Send what was given, and the end where that was written, as far as the windows let it. An error tells that
    /// the stream is gone.
    pub(crate) fn poll_give(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut unsent = self.unsent.borrow_mut();
        let mut ended = false;
        while !unsent.is_empty() {
            let room = match ready!(self.poll_room(context, unsent.len())) {
                Ok(room) => room,
                Err(error) => {
                    unsent.clear();
                    return Poll::Ready(Err(error));
                }
            };
            let piece = unsent.split_to(room);
            let ending = self.ending.take();
            ended = unsent.is_empty() && matches!(ending, Some(Ending::Plain));
            self.ending.set(ending);
            self.with_stream(|stream| stream.send_data(piece, ended))?;
        }
        let sent = match self.ending.take() {
            None => return Poll::Ready(Ok(())),
            Some(Ending::Plain) if ended => Ok(()),
            Some(Ending::Plain) => self.with_stream(|stream| stream.send_data(Bytes::new(), true)),
            Some(Ending::Trailers(fields)) => self.with_stream(|stream| stream.send_trailers(fields)),
        };
        self.take();
        Poll::Ready(sent)
    }

    /// Send `out`, and the end where that was written. `TimedOut` when there is no progress for `stall_ms`, or at
    /// `limit_ms`; otherwise an error tells that the stream is gone.
    pub(crate) async fn send(
        &self,
        out: &mut Vec<u8>,
        deadline: &Deadline,
        stall_ms: u64,
        limit_ms: u64,
    ) -> io::Result<()> {
        *self.unsent.borrow_mut() = Bytes::from(std::mem::take(out));
        let mut waiting = usize::MAX;
        poll_fn(|context| {
            if let Poll::Ready(result) = self.poll_give(context) {
                return Poll::Ready(result);
            }
            let left = self.unsent.borrow().len();
            if left < waiting {
                waiting = left;
                deadline.set_within(stall_ms, limit_ms);
            }
            ready!(deadline.poll_expired(context));
            self.unsent.borrow_mut().clear();
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    fn with_stream(&self, act: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>) -> io::Result<()> {
        let mut stream = self.stream.borrow_mut();
        let stream = stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        act(stream).map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    /// Room for so many bytes at most, as soon as the windows have some.
    fn poll_room(&self, context: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = &mut *stream else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        stream.reserve_capacity(wanted);
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(stream.capacity().min(wanted)));
        }
        stream.poll_capacity(context).map(|room| match room {
            Some(Ok(room)) => Ok(room.min(wanted)),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }
}
