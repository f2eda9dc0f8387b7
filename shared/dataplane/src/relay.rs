//! Two streams joined: bytes both ways, half-close and reset carried across, splice(2) once it is bulk.
//!
//! One task polls both directions. A direction starts by copying through one buffer per thread, so an
//! idle stream holds no memory; after [`BULK_BYTES`] it goes on by splice, through a pipe of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::clock;
use crate::deadline::Deadline;
use crate::net::{Pipe, close_with_reset, splice};
use crate::throttle::Throttle;

/// Bytes of one direction after which it is bulk.
pub const BULK_BYTES: u64 = 96 * 1024;
const COPY_BYTES: usize = 32 * 1024;
const SPARE_PIPES: usize = 16;

thread_local! {
    static COPY: RefCell<Vec<u8>> = RefCell::new(vec![0; COPY_BYTES]);
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides finished.
    Finished,
    /// No byte moved for the idle timeout.
    Idle,
    /// The first stream was reset.
    FirstReset,
    /// The second stream was reset.
    SecondReset,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first one.
    First,
    /// The second one.
    Second,
}

/// What a relay moved.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Bytes from the first stream to the second.
    pub forth: u64,
    /// Bytes from the second stream to the first.
    pub back: u64,
    /// Why it ended.
    pub end: End,
    /// When the second stream ended (`CLOCK_MONOTONIC`, µs), if it had not sent a byte and the first was
    /// still open: nobody asked it to.
    pub hung_up_us: Option<u64>,
    /// When the first byte of the second stream came (`CLOCK_MONOTONIC`, µs).
    pub first_back_us: Option<u64>,
    /// Who was first to end, be it by half-close or reset.
    pub ended_first: Option<Side>,
    /// How long throttles have held it, both directions together.
    pub held_us: u64,
}

/// What holds the directions back, if anything does.
#[derive(Default)]
pub struct Throttles {
    /// From the first stream to the second.
    pub forth: Option<Throttle>,
    /// From the second stream to the first.
    pub back: Option<Throttle>,
}

/// How long a relay may last, in milliseconds; 0 = without end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Without a byte.
    pub idle_ms: u64,
    /// Without a byte after one side has ended.
    pub half_closed_ms: u64,
    /// At the latest (coarse clock).
    pub limit_ms: u64,
}

/// A stream that can be relayed.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The TCP socket, when bytes on it are bytes of the stream (so not under TLS).
    fn plain(&self) -> Option<&TcpStream>;
    /// The TCP socket below, where the stream has it for itself.
    fn socket(&self) -> Option<&TcpStream>;
    /// End it in a way that the other side cannot take for a good end.
    fn reset(&mut self) {
        if let Some(socket) = self.socket() {
            close_with_reset(socket.as_fd());
        }
    }
}

impl Stream for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

#[derive(Default)]
struct Direction {
    unsent: Vec<u8>,
    sent: usize,
    pipe: Option<Pipe>,
    in_pipe: usize,
    ended: bool,
    closed: bool,
    /// A TLS session may hold bytes that its socket has not taken yet.
    unflushed: bool,
    bytes: u64,
    throttle: Option<Box<Throttle>>,
}

/// Which side of a direction failed.
enum Failure {
    Source,
    Sink,
}

/// Join `first` and `second` until both have finished; `read` are the bytes already read, forth and back.
pub async fn relay<A: Stream, B: Stream>(
    first: &mut A,
    second: &mut B,
    read: (Vec<u8>, Vec<u8>),
    idle: &Deadline,
    bounds: Bounds,
) -> Outcome {
    relay_throttled(first, second, read, idle, bounds, Throttles::default()).await
}

/// The same, each direction held back by its throttle.
pub async fn relay_throttled<A: Stream, B: Stream>(
    first: &mut A,
    second: &mut B,
    read: (Vec<u8>, Vec<u8>),
    idle: &Deadline,
    bounds: Bounds,
    throttles: Throttles,
) -> Outcome {
    let mut up = Direction::starting_with(read.0, throttles.forth);
    let mut down = Direction::starting_with(read.1, throttles.back);
    let (mut hung_up_us, mut first_back_us, mut ended_first) = (None, None, None);
    let Bounds { mut idle_ms, half_closed_ms, limit_ms } = bounds;
    let mut half_closed = false;
    idle.set_within(idle_ms, limit_ms);
    let end = poll_fn(|context| {
        let before = (up.bytes, down.bytes, up.in_pipe, down.in_pipe, up.sent, down.sent);
        let forth = up.poll(context, first, second, down.closed);
        let back = down.poll(context, second, first, up.closed);
        if !half_closed && half_closed_ms != 0 && (up.closed || down.closed) {
            half_closed = true;
            idle_ms = if idle_ms == 0 { half_closed_ms } else { idle_ms.min(half_closed_ms) };
            idle.set_within(idle_ms, limit_ms);
        }
        if before != (up.bytes, down.bytes, up.in_pipe, down.in_pipe, up.sent, down.sent) {
            idle.set_within(idle_ms, limit_ms);
        }
        if first_back_us.is_none() && down.bytes > 0 {
            first_back_us = Some(clock::monotonic_us());
        }
        let waits_ms = up.waits_ms().max(down.waits_ms());
        if waits_ms > 0 && idle_ms > 0 {
            // Bytes are there: it is we who do not take them.
            idle.set_within(idle_ms.saturating_add(waits_ms), limit_ms);
        }
        let broken =
            matches!(forth, Poll::Ready(Err(Failure::Sink))) || matches!(back, Poll::Ready(Err(Failure::Source)));
        if ended_first.is_none() {
            let first = up.ended
                || matches!(forth, Poll::Ready(Err(Failure::Source)))
                || matches!(back, Poll::Ready(Err(Failure::Sink)));
            ended_first = first.then_some(Side::First).or((down.ended || broken).then_some(Side::Second));
        }
        if hung_up_us.is_none() && down.bytes == 0 && !up.ended && (down.ended || broken) {
            hung_up_us = Some(clock::monotonic_us());
        }
        match (forth, back) {
            (Poll::Ready(Err(Failure::Source)), _) | (_, Poll::Ready(Err(Failure::Sink))) => {
                Poll::Ready(End::FirstReset)
            }
            (Poll::Ready(Err(Failure::Sink)), _) | (_, Poll::Ready(Err(Failure::Source))) => {
                Poll::Ready(End::SecondReset)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            _ => idle.poll_expired(context).map(|()| End::Idle),
        }
    })
    .await;
    idle.clear();
    match end {
        End::FirstReset => second.reset(),
        End::SecondReset => first.reset(),
        End::Finished | End::Idle => {}
    }
    let held_us = up.held_us() + down.held_us();
    Outcome { forth: up.bytes, back: down.bytes, end, hung_up_us, first_back_us, ended_first, held_us }
}

impl Direction {
    fn starting_with(bytes: Vec<u8>, throttle: Option<Throttle>) -> Self {
        let mut direction = Self::default();
        direction.throttle = throttle.map(Box::new);
        direction.bytes = bytes.len() as u64;
        direction.unsent = bytes;
        direction
    }

    fn poll<A: Stream, B: Stream>(
        &mut self,
        context: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        opposite_closed: bool,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            while self.sent < self.unsent.len() {
                match ready!(Pin::new(&mut *to).poll_write(context, &self.unsent[self.sent..])) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Sink)),
                    Ok(count) => {
                        self.sent += count;
                        self.unflushed = true;
                    }
                }
            }
            if self.sent > 0 {
                // Freed, not kept: a slow phase is over, and idle streams are many.
                self.unsent = Vec::new();
                self.sent = 0;
            }
            if self.unflushed {
                if ready!(Pin::new(&mut *to).poll_flush(context)).is_err() {
                    return Poll::Ready(Err(Failure::Sink));
                }
                self.unflushed = false;
            }
            while self.in_pipe > 0 {
                match ready!(self.poll_out_of_pipe(context, to)) {
                    Ok(count) if count > 0 => self.in_pipe -= count,
                    _ => return Poll::Ready(Err(Failure::Sink)),
                }
            }
            if self.ended {
                // TLS sends its close_notify here; a socket is half-closed. When the last byte of `to` has been
                // read as well, the relay is over, and closing the socket, which follows, says the same.
                if !opposite_closed || to.plain().is_none() {
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(context));
                }
                self.closed = true;
                continue;
            }
            let limit = match &mut self.throttle {
                None => usize::MAX,
                Some(throttle) => {
                    // Nothing is reserved for a stream that is silent. An error shows when it is read.
                    if let Some(socket) = from.socket() {
                        let _ = ready!(socket.poll_read_ready(context));
                    }
                    ready!(throttle.poll_ready(context))
                }
            };
            let moved = if self.bulk(from, to) {
                self.poll_into_pipe(context, from, limit)
            } else {
                self.poll_copy(context, from, to, limit)
            };
            if let Some(throttle) = &mut self.throttle {
                match &moved {
                    Poll::Ready(Ok(count)) if *count > 0 => throttle.used(*count),
                    _ => throttle.give_back(),
                }
            }
            match ready!(moved) {
                Ok(0) => self.ended = true,
                Ok(count) => self.bytes += count as u64,
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }

    fn waits_ms(&self) -> u64 {
        self.throttle.as_ref().map_or(0, |throttle| throttle.waits_ms())
    }

    fn held_us(&self) -> u64 {
        self.throttle.as_ref().map_or(0, |throttle| throttle.held_us())
    }

    fn bulk<A: Stream, B: Stream>(&mut self, from: &A, to: &B) -> bool {
        if self.pipe.is_none() && self.bytes >= BULK_BYTES && from.plain().is_some() && to.plain().is_some() {
            self.pipe = PIPES.with_borrow_mut(Vec::pop).or_else(|| Pipe::new().ok());
        }
        self.pipe.is_some()
    }

    /// Read once, and write what was read at once; what the sink does not take is kept.
    fn poll_copy<A: Stream, B: Stream>(
        &mut self,
        context: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        limit: usize,
    ) -> Poll<Result<usize, Failure>> {
        COPY.with_borrow_mut(|buffer| {
            let limit = limit.min(buffer.len());
            let mut target = ReadBuf::new(&mut buffer[..limit]);
            if ready!(Pin::new(from).poll_read(context, &mut target)).is_err() {
                return Poll::Ready(Err(Failure::Source));
            }
            let read = target.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let written = match Pin::new(to).poll_write(context, read) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.unflushed = true;
                    count
                }
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Sink)),
                Poll::Pending => 0,
            };
            self.unsent.extend_from_slice(&read[written..]);
            Poll::Ready(Ok(read.len()))
        })
    }

    fn poll_into_pipe<A: Stream>(
        &mut self,
        context: &mut Context<'_>,
        from: &A,
        limit: usize,
    ) -> Poll<Result<usize, Failure>> {
        let (Some(pipe), Some(socket)) = (&self.pipe, from.plain()) else { return Poll::Ready(Err(Failure::Source)) };
        let moved = ready!(poll_io(context, socket, Interest::READABLE, || {
            splice(socket.as_fd(), pipe.writer(), pipe.capacity.min(limit))
        }));
        Poll::Ready(match moved {
            Ok(count) => {
                self.in_pipe += count;
                Ok(count)
            }
            Err(_) => Err(Failure::Source),
        })
    }

    fn poll_out_of_pipe<B: Stream>(&self, context: &mut Context<'_>, to: &B) -> Poll<io::Result<usize>> {
        let (Some(pipe), Some(socket)) = (&self.pipe, to.plain()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        poll_io(context, socket, Interest::WRITABLE, || splice(pipe.reader(), socket.as_fd(), self.in_pipe))
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        if let (Some(pipe), 0) = (self.pipe.take(), self.in_pipe) {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < SPARE_PIPES {
                    pipes.push(pipe);
                }
            });
        }
    }
}

/// What became of [`splice_exact`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    /// Every byte has arrived.
    Moved,
    /// The source ended or broke before.
    SourceEnded,
    /// The sink takes no more.
    SinkFailed,
    /// Nothing moved until the deadline.
    TimedOut,
    /// There is no pipe to be had: nothing was moved.
    NoPipe,
}

/// Move exactly `left` bytes from socket to socket in the kernel; `progress` is called whenever some moved.
pub async fn splice_exact(
    from: &TcpStream,
    to: &TcpStream,
    mut left: u64,
    progress: impl Fn(),
    deadline: &Deadline,
) -> Exact {
    let mut direction = Direction::default();
    direction.pipe = PIPES.with_borrow_mut(Vec::pop).or_else(|| Pipe::new().ok());
    if direction.pipe.is_none() {
        return Exact::NoPipe;
    }
    progress();
    poll_fn(|context| {
        loop {
            while direction.in_pipe > 0 {
                match direction.poll_out_of_pipe(context, to) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        direction.in_pipe -= count;
                        progress();
                    }
                    Poll::Ready(_) => return Poll::Ready(Exact::SinkFailed),
                    Poll::Pending => return deadline.poll_expired(context).map(|()| Exact::TimedOut),
                }
            }
            if left == 0 {
                return Poll::Ready(Exact::Moved);
            }
            let limit = usize::try_from(left).unwrap_or(usize::MAX);
            match direction.poll_into_pipe(context, from, limit) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    left -= count as u64;
                    progress();
                }
                Poll::Ready(_) => return Poll::Ready(Exact::SourceEnded),
                Poll::Pending => return deadline.poll_expired(context).map(|()| Exact::TimedOut),
            }
        }
    })
    .await
}

/// Try `operation` when the socket is ready; wait again when it says that it would block.
fn poll_io(
    context: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut operation: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() {
            socket.poll_read_ready(context)
        } else {
            socket.poll_write_ready(context)
        })?;
        match socket.try_io(interest, &mut operation) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}
