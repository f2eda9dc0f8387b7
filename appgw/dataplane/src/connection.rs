//! One client connection: PROXY header, TLS, then request after request.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weirgate_shared::cidr::LOCAL;
use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::handoff::Handoff;
use weirgate_shared::net::close_with_reset;
use weirgate_shared::reason::Reason;

use crate::buffer::Buffer;
use crate::config::Listener;
use crate::exchange;
use crate::forwarded::Introduction;
use crate::http1::{HeadScan, parse_request};
use crate::insight::ConnectionFacts;
use crate::introduction::{Said, read_proxy_header};
use crate::io::{Io, Replay, Stream};
use crate::message::{RequestHead, ResponseHead};
use crate::plane::{Gateway, Live};

/// Own answers that may wait for being written together.
const PENDING_BYTES: usize = 64 * 1024;
/// Bytes and time that a closing connection reads on, so that its last answer is not lost to a reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_MS: u64 = 2_000;

/// A connection whose requests are being served.
pub(crate) struct Connection {
    pub(crate) gateway: Rc<Gateway>,
    pub(crate) stream: Stream,
    pub(crate) facts: ConnectionFacts,
    pub(crate) introduction: Introduction,
    pub(crate) listener: Rc<Listener>,
    listener_key: u64,
    /// The peer is a proxy whose word counts.
    pub(crate) trusted: bool,
    /// The client may still be sending what nobody will read.
    pub(crate) unread: Cell<bool>,
    /// An answer was broken off: the end must not look like a good one.
    pub(crate) broken: Cell<bool>,
    _live: Live,
}

/// Buffers of one exchange, lent by the gateway while there is one.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) head: RequestHead,
    pub(crate) response: ResponseHead,
    /// What goes to the client.
    pub(crate) out: Vec<u8>,
    /// What goes to the endpoint.
    pub(crate) wire: Vec<u8>,
    pub(crate) request_id: Vec<u8>,
}

/// Serve what the edge has handed over.
pub(crate) async fn serve(gateway: Rc<Gateway>, mut header: Handoff, live: Live, socket: OwnedFd) {
    let accept_to_gateway_us = clock::monotonic_us().saturating_sub(header.accepted_us);
    let refuse = |socket: &TcpStream, reason: Reason| {
        gateway.totals.count_reason(reason);
        close_with_reset(socket.as_fd());
    };
    let Some(mut listener) = gateway.listener(header.listener) else {
        gateway.totals.count_reason(Reason::ConfigChanged);
        close_with_reset(socket.as_fd());
        return;
    };
    let Ok(mut socket) = TcpStream::from_std(socket.into()) else { return };
    let deadline = gateway.deadlines.register();
    let mut client = header.client;
    let mut early = Buffer::default();
    let mut from_edge = None;
    if !listener.accept_proxy_from.is_empty() && listener.accept_proxy_from.contains(client.ip()) {
        deadline.set(gateway.runtime().snapshot.gateway.request_head_ms);
        match read_proxy_header(&mut socket, &mut early, &deadline).await {
            Ok(said) => {
                client = said.client.unwrap_or(client);
                from_edge = Some(said);
            }
            Err(()) => return refuse(&socket, Reason::BadProxyHeader),
        }
    }
    if listener.from_edges {
        let Some(Said { client: named, id: Some(id), listener: Some(key) }) = from_edge else {
            return refuse(&socket, Reason::BadProxyHeader);
        };
        // An edge that has a newer configuration, or an older one.
        let Some(theirs) = gateway.listener(key).filter(|listener| !listener.from_edges) else {
            return refuse(&socket, Reason::ConfigChanged);
        };
        listener = theirs;
        // A client without an address has come by a Unix socket.
        client = named.unwrap_or(SocketAddr::new(LOCAL, 0));
        (header.listener, header.connection_id, header.peer) = (key, id, client);
    }
    let tls_start = clock::process_us();
    let Ok(stream) = secure(&gateway, &listener, socket, early, deadline).await else {
        gateway.totals.count_reason(Reason::TlsHandshakeFailed);
        return;
    };
    let tls = listener.tls.is_some();
    let facts = ConnectionFacts {
        id: header.connection_id,
        client,
        client_text: client.to_string(),
        listener: listener.name.clone(),
        tls,
        accept_to_gateway_us,
        tls_us: if tls { clock::process_us() - tls_start } else { 0 },
    };
    let connection = Connection {
        introduction: Introduction::new(client, tls),
        // It is the peer itself that must be trusted, not the address that it speaks for.
        trusted: listener.trusted_proxies.contains(header.peer.ip()),
        listener,
        listener_key: header.listener,
        unread: Cell::new(false),
        broken: Cell::new(false),
        gateway,
        stream,
        facts,
        _live: live,
    };
    connection.run().await;
}

async fn secure(
    gateway: &Gateway,
    listener: &Listener,
    socket: TcpStream,
    early: Buffer,
    deadline: Deadline,
) -> Result<Stream, ()> {
    let Some(config) = &listener.tls else {
        let stream = Stream::new(Io::Plain(socket), deadline);
        *stream.input.borrow_mut() = early;
        return Ok(stream);
    };
    deadline.set(gateway.runtime().snapshot.gateway.tls_handshake_ms);
    let accepting = TlsAcceptor::from(Arc::clone(config)).accept(Replay::new(early.bytes().to_vec(), socket));
    let mut accepting = std::pin::pin!(accepting);
    let stream = poll_fn(|context| match accepting.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(result.map_err(|_| ())),
        Poll::Pending => deadline.poll_expired(context).map(|()| Err(())),
    })
    .await?;
    gateway.totals.tls_handshakes.add_one();
    if stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        gateway.totals.tls_resumed.add_one();
    }
    Ok(Stream::new(Io::Tls(Box::new(stream.into())), deadline))
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
    /// Whether the client may send another request after the current one.
    pub(crate) fn goes_on(&self) -> bool {
        !self.gateway.is_draining() && self.gateway.serves(self.listener_key)
    }

    async fn run(self) {
        let mut number = 0;
        loop {
            if number > 0 || self.stream.input.borrow().is_empty() {
                match self.wait_for_bytes(number).await {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return self.close().await,
                }
            }
            // Buffers are lent only while there is something to do.
            let mut scratch = self.gateway.take_scratch();
            let keep = self.serve_available(&mut scratch, &mut number).await;
            self.gateway.give_scratch(scratch);
            if !keep || !self.gateway.serves(self.listener_key) {
                return self.close().await;
            }
        }
    }

    /// Wait, holding nothing, until the client sends. False = it has closed or said nothing for too long.
    async fn wait_for_bytes(&self, number: u64) -> std::io::Result<bool> {
        if !self.stream.input.borrow().is_empty() {
            return Ok(true);
        }
        let runtime = self.gateway.runtime();
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
    pub(crate) async fn flush(&self, out: &mut Vec<u8>) -> bool {
        if out.is_empty() {
            return true;
        }
        let stall_ms = self.gateway.runtime().snapshot.gateway.idle_ms;
        let written = self.stream.write_all(out, stall_ms, 0).await;
        out.clear();
        written.is_ok()
    }

    /// A request's head, from bytes that are there and more as they come.
    async fn read_head(&self, scratch: &mut Scratch) -> Next {
        let runtime = self.gateway.runtime();
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
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
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
        if self.broken.get() || self.stream.ended() || !(unread || self.facts.tls) {
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
