//! The body that goes out on one stream, as fast as the other side's windows let it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

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
    ending: Cell<Option<Ending>>,
}

impl Outflow {
    /// A body follows.
    pub(crate) fn open(&self, stream: SendStream<Bytes>) {
        *self.stream.borrow_mut() = Some(stream);
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

    /// Send `out`, and the end where that was written. `TimedOut` when there is no progress for `stall_ms`, or at
    /// `limit_ms`; otherwise an error tells that the stream is gone.
    pub(crate) async fn send(
        &self,
        out: &mut Vec<u8>,
        deadline: &Deadline,
        stall_ms: u64,
        limit_ms: u64,
    ) -> io::Result<()> {
        let mut rest = Bytes::from(std::mem::take(out));
        let ending = self.ending.take();
        let mut ended = false;
        while !rest.is_empty() {
            let room = self.room(rest.len(), deadline, stall_ms, limit_ms).await?;
            let piece = rest.split_to(room);
            ended = rest.is_empty() && matches!(ending, Some(Ending::Plain));
            self.with_stream(|stream| stream.send_data(piece, ended))?;
        }
        match ending {
            None => return Ok(()),
            Some(Ending::Plain) if ended => {}
            Some(Ending::Plain) => self.with_stream(|stream| stream.send_data(Bytes::new(), true))?,
            Some(Ending::Trailers(fields)) => self.with_stream(|stream| stream.send_trailers(fields))?,
        }
        self.take();
        Ok(())
    }

    fn with_stream(&self, act: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>) -> io::Result<()> {
        let mut stream = self.stream.borrow_mut();
        let stream = stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        act(stream).map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    /// Room for so many bytes at most, as soon as the windows have some.
    async fn room(&self, wanted: usize, deadline: &Deadline, stall_ms: u64, limit_ms: u64) -> io::Result<usize> {
        let mut waiting = false;
        poll_fn(|context| {
            let mut stream = self.stream.borrow_mut();
            let Some(stream) = &mut *stream else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
            stream.reserve_capacity(wanted);
            if stream.capacity() > 0 {
                return Poll::Ready(Ok(stream.capacity().min(wanted)));
            }
            match stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room.min(wanted))),
                Poll::Ready(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Poll::Pending => {
                    if !waiting {
                        waiting = true;
                        deadline.set_within(stall_ms, limit_ms);
                    }
                    deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
                }
            }
        })
        .await
    }
}
