//! A connection's byte stream, plain or under TLS, read and written within deadlines.
//!
//! Reading and writing go through `&self`, so that one task can do both at once: a request body
//! going out while the answer already comes in.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::net::{is_readable, take_error};
use weirgate_shared::relay;

use crate::buffer::Buffer;
use crate::downstream::Piece;
use crate::http1::{Decoded, Decoder, Malformed};

/// Plain TCP, or TLS over it.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<Replay>>),
}

macro_rules! delegate {
    ($self:ident, $method:ident ( $($argument:expr),* )) => {
        match $self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Io::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(context, bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(context))
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(context))
    }
}

impl relay::Stream for Io {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
    fn socket(&self) -> Option<&TcpStream> {
        Some(self.socket())
    }
}

impl Io {
    /// The TCP socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        }
    }

    /// Whether HTTP/2 was agreed in its TLS handshake.
    pub(crate) fn agreed_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    }
}

/// A socket from which some bytes were already read, which come first.
pub(crate) struct Replay {
    bytes: Vec<u8>,
    stream: TcpStream,
}

impl Replay {
    pub(crate) fn new(bytes: Vec<u8>, stream: TcpStream) -> Self {
        Self { bytes, stream }
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.bytes.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = this.bytes.len().min(buffer.remaining());
        buffer.put_slice(&this.bytes[..count]);
        this.bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// An [`Io`] with its read buffer and its deadline.
pub(crate) struct Stream {
    pub(crate) io: RefCell<Io>,
    pub(crate) input: RefCell<Buffer>,
    pub(crate) deadline: Deadline,
    ended: Cell<bool>,
    reset: Cell<bool>,
}

impl Stream {
    pub(crate) fn new(io: Io, deadline: Deadline) -> Self {
        Self {
            io: RefCell::new(io),
            input: RefCell::default(),
            deadline,
            ended: Cell::new(false),
            reset: Cell::new(false),
        }
    }

    /// Take it apart: the connection, bytes read but not taken, and the deadline.
    pub(crate) fn into_parts(self) -> (Io, Buffer, Deadline) {
        (self.io.into_inner(), self.input.into_inner(), self.deadline)
    }

    /// Read some bytes into the buffer; 0 = the end. `TimedOut` when the deadline, set before, passes.
    pub(crate) async fn read(&self) -> io::Result<usize> {
        poll_fn(|context| match self.poll_read(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }

    /// The same, but `ConnectionReset` as soon as `gone` is ready.
    pub(crate) async fn read_while(&self, gone: impl Fn(&mut Context<'_>) -> Poll<()>) -> io::Result<usize> {
        poll_fn(|context| {
            if let Poll::Ready(result) = self.poll_read(context) {
                return Poll::Ready(result);
            }
            if gone(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    fn poll_read(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        // No buffer is taken before there is something to read: idle connections hold none.
        if let Io::Plain(stream) = &*io {
            ready!(stream.poll_read_ready(context))?;
        }
        let mut input = self.input.borrow_mut();
        let mut target = ReadBuf::new(input.space());
        let result = Pin::new(&mut *io).poll_read(context, &mut target);
        let count = target.filled().len();
        input.filled(count);
        if count == 0 && result.is_ready() {
            self.ended.set(true);
        }
        result.map_ok(|()| count)
    }

    /// Give the next bytes of a message's body to `take`, from what was read.
    pub(crate) fn next_piece(&self, body: &mut Decoder, mut take: impl FnMut(&[u8])) -> Result<Piece, Malformed> {
        let mut input = self.input.borrow_mut();
        match body.next(input.bytes())? {
            Decoded::Data { skip, length } => {
                take(&input.bytes()[skip..skip + length]);
                input.consume(skip + length);
                Ok(Piece::Data)
            }
            Decoded::End { skip } => {
                input.consume(skip);
                Ok(Piece::End)
            }
            Decoded::More { skip } => {
                input.consume(skip);
                Ok(Piece::Starved)
            }
        }
    }

    /// Write all of `bytes`. `TimedOut` when no progress is made for `stall_ms` (0 = no limit), or at
    /// `limit_ms` (coarse clock, 0 = none).
    pub(crate) async fn write_all(&self, bytes: &[u8], stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        let mut sent = 0;
        let mut waiting = false;
        poll_fn(|context| {
            while sent < bytes.len() {
                let written = Pin::new(&mut *self.io.borrow_mut()).poll_write(context, &bytes[sent..]);
                match written {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        sent += count;
                        waiting = false;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        // Only a write that has to wait touches the deadline.
                        if !waiting {
                            waiting = true;
                            self.deadline.set_within(stall_ms, limit_ms);
                        }
                        ready!(self.deadline.poll_expired(context));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        self.flush(stall_ms, limit_ms).await
    }

    /// Push buffered TLS records out: a session takes more than its socket does.
    async fn flush(&self, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        if matches!(&*self.io.borrow(), Io::Plain(_)) {
            return Ok(());
        }
        let mut waiting = false;
        poll_fn(|context| match Pin::new(&mut *self.io.borrow_mut()).poll_flush(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => {
                if !waiting {
                    waiting = true;
                    self.deadline.set_within(stall_ms, limit_ms);
                }
                self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        })
        .await
    }

    /// Ready once the other side has reset the connection. A half-close is not the end: the client may
    /// still read the answer.
    pub(crate) fn poll_reset(&self, context: &mut Context<'_>) -> Poll<()> {
        let io = self.io.borrow();
        let socket = io.socket();
        match ready!(socket.poll_read_ready(context)) {
            Ok(()) if take_error(socket.as_fd()).is_ok() => Poll::Pending,
            _ => {
                self.reset.set(true);
                Poll::Ready(())
            }
        }
    }

    /// Whether [`Self::poll_reset`] has seen a reset.
    pub(crate) fn is_reset(&self) -> bool {
        self.reset.get()
    }

    /// Whether the other side has closed, or the stream is broken.
    pub(crate) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Say that no more bytes will come.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|context| match Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }

    /// Whether an idle connection is still good: nothing to read, not closed. Costs no system call
    /// while the runtime has seen no event on it.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.input.borrow().is_empty() && self.poll_read(&mut context).is_pending()
    }

    /// The same, and the kernel is asked: what the other side has closed since the runtime's last look shows.
    pub(crate) fn is_quiet_now(&self) -> bool {
        self.is_quiet() && !is_readable(self.io.borrow().socket().as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use weirgate_shared::deadline::Deadlines;

    use super::*;

    #[test]
    fn a_close_that_the_runtime_has_not_seen_shows_when_the_kernel_is_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
            let (server, _) = listener.accept().expect("connected");
            let stream = Stream::new(Io::Plain(client), Deadlines::default().register());
            assert!(stream.is_quiet() && stream.is_quiet_now());
            drop(server);
            while !is_readable(stream.io.borrow().socket().as_fd()) {
                std::thread::yield_now();
            }
            assert!(stream.is_quiet(), "nobody has looked");
            assert!(!stream.is_quiet_now());
        });
    }
}
