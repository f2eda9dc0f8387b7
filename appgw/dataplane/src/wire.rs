//! The bytes of an HTTP/2 connection. What is written is collected and sent in one go when the connection's
//! task has nothing more to do: the `h2` crate flushes after each frame, which would be a system call each.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weirgate_shared::clock;

use crate::buffer::Buffer;
use crate::http2::FrameWatch;
use crate::io::Io;

/// Collected bytes beyond which a write waits for the socket.
const COLLECT_BYTES: usize = 64 * 1024;

struct State {
    io: Io,
    early: Buffer,
    out: Vec<u8>,
    sent: usize,
    /// Half-closed.
    ended: bool,
    /// Bytes that the socket, or the TLS session, has taken.
    taken: u64,
    /// Bytes that have come.
    received: u64,
    watch: FrameWatch,
}

/// One end is the `h2` crate's, the other its driver's.
#[derive(Clone)]
pub(crate) struct Wire {
    state: Rc<RefCell<State>>,
    sentence: Rc<Sentence>,
}

/// Why the connection must end, and whom to wake for it.
#[derive(Default)]
struct Sentence {
    code: Cell<Option<h2::Reason>>,
    driver: RefCell<Option<Waker>>,
}

impl Wire {
    /// `early` was read from `io` already.
    pub(crate) fn new(io: Io, early: Buffer, watch: FrameWatch) -> Self {
        let state = State { io, early, out: Vec::new(), sent: 0, ended: false, taken: 0, received: 0, watch };
        Self { state: Rc::new(RefCell::new(state)), sentence: Rc::default() }
    }

    /// Why the connection must end, if it must: `ENHANCE_YOUR_CALM` for more control frames than it may have.
    /// Whoever asks is woken when that changes.
    pub(crate) fn sentence(&self, context: &Context<'_>) -> Option<h2::Reason> {
        *self.sentence.driver.borrow_mut() = Some(context.waker().clone());
        self.sentence.code.get()
    }

    /// Have the connection ended: the other side broke a rule where its stream can no longer be told.
    pub(crate) fn condemn(&self, code: h2::Reason) {
        self.sentence.code.set(Some(code));
        if let Some(driver) = self.sentence.driver.borrow_mut().take() {
            driver.wake();
        }
    }

    /// Whether a stream's trailers had pseudo-header fields.
    pub(crate) fn take_bad_trailers(&self, stream: u32) -> bool {
        self.state.borrow_mut().watch.take_bad_trailers(stream)
    }

    /// Give the memory back, for there is nothing to send for a while.
    pub(crate) fn release(&self) {
        let mut state = self.state.borrow_mut();
        if state.out.is_empty() {
            state.out = Vec::new();
        }
    }

    /// Add a frame of our own.
    pub(crate) fn write(&self, frame: &[u8]) {
        self.state.borrow_mut().out.extend_from_slice(frame);
    }

    /// Send what was collected. Pending = the socket is full.
    pub(crate) fn poll_push(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.borrow_mut().poll_push(context, 0)
    }

    /// Send what is left, half-close, and read what still comes, `left` bytes at most. Ready = all is over.
    pub(crate) fn poll_end(&self, context: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if !state.ended {
            if ready!(state.poll_push(context, 0)).is_err()
                || ready!(Pin::new(&mut state.io).poll_shutdown(context)).is_err()
            {
                return Poll::Ready(());
            }
            state.ended = true;
        }
        let mut scrap = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut state.io).poll_read(context, &mut buffer));
            *left = left.saturating_sub(buffer.filled().len());
            if read.is_err() || buffer.filled().is_empty() || *left == 0 {
                return Poll::Ready(());
            }
        }
    }

    /// Bytes that have come so far.
    pub(crate) fn received(&self) -> u64 {
        self.state.borrow().received
    }

    /// Bytes taken so far: no change = no progress.
    pub(crate) fn progress(&self) -> u64 {
        self.state.borrow().taken
    }
}

impl State {
    /// Send until at most `keep` bytes wait.
    fn poll_push(&mut self, context: &mut Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        while self.out.len() - self.sent > keep {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.out[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.taken += count as u64;
            self.watch.sent(count);
        }
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            self.out.shrink_to(COLLECT_BYTES);
        } else if self.sent > COLLECT_BYTES {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        // A TLS session takes more than its socket does.
        if matches!(self.io, Io::Tls(_)) { Pin::new(&mut self.io).poll_flush(context) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.sentence.code.get().is_some() {
            // The driver is about to end the connection.
            return Poll::Pending;
        }
        let mut state = self.state.borrow_mut();
        let before = buffer.filled().len();
        if state.early.is_empty() {
            ready!(Pin::new(&mut state.io).poll_read(context, buffer))?;
        } else {
            let count = state.early.len().min(buffer.remaining());
            buffer.put_slice(&state.early.bytes()[..count]);
            state.early.consume(count);
        }
        state.received += (buffer.filled().len() - before) as u64;
        let verdict = state.watch.received(&buffer.filled()[before..], clock::coarse_ms());
        drop(state);
        if verdict.is_err() {
            self.condemn(h2::Reason::ENHANCE_YOUR_CALM);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        if state.out.len() - state.sent >= COLLECT_BYTES {
            ready!(state.poll_push(context, COLLECT_BYTES - 1))?;
        }
        state.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Not yet: the driver sends when there is nothing more to collect.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if !state.ended {
            ready!(state.poll_push(context, 0))?;
            ready!(Pin::new(&mut state.io).poll_shutdown(context))?;
            state.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}
