//! Both directions of an upgraded exchange as bytes: a connection of its own, or a stream of an HTTP/2 connection.

use std::cell::RefMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use weirgate_shared::relay;

use crate::io::{Io, Stream};

/// What one write may hand to the HTTP/2 connection.
const WRITE_BYTES: usize = 16 * 1024;

/// The bytes of one side.
pub(crate) enum Pipe<'a> {
    Connection(RefMut<'a, Io>),
    Stream(Tunnel<'a>),
}

impl<'a> Pipe<'a> {
    /// A connection that the exchange has for itself, and the bytes that were already read from it.
    pub(crate) fn of(stream: &'a Stream) -> (Self, Vec<u8>) {
        let mut input = stream.input.borrow_mut();
        let read = input.bytes().to_vec();
        input.consume(read.len());
        (Self::Connection(stream.io.borrow_mut()), read)
    }
}

/// A stream of an HTTP/2 connection (RFC 8441): DATA frames are its bytes.
pub(crate) struct Tunnel<'a> {
    receive: RefMut<'a, RecvStream>,
    send: SendStream<Bytes>,
    data: Bytes,
    ended: bool,
}

impl<'a> Tunnel<'a> {
    /// `data` was taken from `receive` already.
    pub(crate) fn new(receive: RefMut<'a, RecvStream>, send: SendStream<Bytes>, data: Bytes) -> Self {
        Self { receive, send, data, ended: false }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.data.is_empty() && !self.ended {
            match ready!(self.receive.poll_data(context)) {
                Some(Ok(data)) => self.data = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => self.ended = true,
            }
        }
        let count = self.data.len().min(buffer.remaining());
        buffer.put_slice(&self.data.split_to(count));
        if count > 0 {
            let _ = self.receive.flow_control().release_capacity(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(WRITE_BYTES);
        self.send.reserve_capacity(wanted);
        let mut room = self.send.capacity();
        if room == 0 {
            room = match ready!(self.send.poll_capacity(context)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = room.min(wanted);
        self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }
}

fn broken(_: h2::Error) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Pipe<'_> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(io) => Pin::new(&mut **io).poll_read(context, buffer),
            Self::Stream(tunnel) => tunnel.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Pipe<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(io) => Pin::new(&mut **io).poll_write(context, bytes),
            Self::Stream(tunnel) => tunnel.poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(io) => Pin::new(&mut **io).poll_flush(context),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(io) => Pin::new(&mut **io).poll_shutdown(context),
            Self::Stream(tunnel) => Poll::Ready(tunnel.send.send_data(Bytes::new(), true).map_err(broken)),
        }
    }
}

impl relay::Stream for Pipe<'_> {
    fn plain(&self) -> Option<&TcpStream> {
        if let Self::Connection(io) = self { io.plain() } else { None }
    }

    fn socket(&self) -> Option<&TcpStream> {
        if let Self::Connection(io) = self { Some(io.socket()) } else { None }
    }

    fn reset(&mut self) {
        match self {
            Self::Connection(io) => relay::Stream::reset(&mut **io),
            Self::Stream(tunnel) => tunnel.send.send_reset(h2::Reason::CANCEL),
        }
    }
}
