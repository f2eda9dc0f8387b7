//! One client connection: PROXY header, TLS, and which HTTP is spoken on it.

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
use crate::client::{Client, too_old_ms};
use crate::config::Listener;
use crate::downstream::http1::Connection;
use crate::downstream::http2;
use crate::forwarded::Introduction;
use crate::insight::ConnectionFacts;
use crate::introduction::{Said, read_proxy_header};
use crate::io::{Io, Replay, Stream};
use crate::plane::{Gateway, Live};

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
    let Ok((stream, http2)) = secure(&gateway, &listener, socket, early, deadline).await else {
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
    let client = Client {
        introduction: Introduction::new(client, tls),
        // It is the peer itself that must be trusted, not the address that it speaks for.
        trusted: listener.trusted_proxies.contains(header.peer.ip()),
        listener,
        listener_key: header.listener,
        until_ms: too_old_ms(gateway.runtime().snapshot.gateway.connection_age_ms, &gateway.random),
        gateway,
        facts,
        _live: live,
    };
    if http2 {
        // Apart, so that a connection with HTTP/1 does not hold the room for it.
        Box::pin(http2::serve(client, stream)).await;
    } else {
        Connection::new(client, stream).run().await;
    }
}

/// The TLS handshake, where the listener has one. Says whether HTTP/2 was agreed in it.
async fn secure(
    gateway: &Gateway,
    listener: &Listener,
    socket: TcpStream,
    early: Buffer,
    deadline: Deadline,
) -> Result<(Stream, bool), ()> {
    let Some(config) = &listener.tls else {
        let stream = Stream::new(Io::Plain(socket), deadline);
        *stream.input.borrow_mut() = early;
        return Ok((stream, false));
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
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Stream::new(Io::Tls(Box::new(stream.into())), deadline), http2))
}
