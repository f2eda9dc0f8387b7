//! One client connection: PROXY header, TLS, and which HTTP is spoken on it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::pki_types::CertificateDer;
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
use crate::client_certificate::ClientCertificate;
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
    let Secured { stream, http2, certificate } = match secure(&gateway, &listener, socket, early, deadline).await {
        Ok(secured) => secured,
        Err(reason) => {
            gateway.totals.tls_failures.add_one();
            return gateway.totals.count_reason(reason);
        }
    };
    let tls = listener.tls.is_some();
    let facts = ConnectionFacts {
        id: header.connection_id,
        client,
        client_text: client.to_string(),
        listener: listener.name.clone(),
        tls,
        certificate,
        accept_to_gateway_us,
        tls_us: if tls { clock::process_us() - tls_start } else { 0 },
    };
    let client = Client {
        introduction: Introduction::new(client, tls, facts.certificate.as_deref()),
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

/// A connection whose TLS handshake, if there is one, is done.
struct Secured {
    stream: Stream,
    /// It was agreed in the handshake.
    http2: bool,
    certificate: Option<Rc<ClientCertificate>>,
}

/// The TLS handshake, where the listener has one.
async fn secure(
    gateway: &Gateway,
    listener: &Listener,
    socket: TcpStream,
    early: Buffer,
    deadline: Deadline,
) -> Result<Secured, Reason> {
    let Some(config) = &listener.tls else {
        let stream = Stream::new(Io::Plain(socket), deadline);
        *stream.input.borrow_mut() = early;
        return Ok(Secured { stream, http2: false, certificate: None });
    };
    deadline.set(gateway.runtime().snapshot.gateway.tls_handshake_ms);
    let accepting = TlsAcceptor::from(Arc::clone(config)).accept(Replay::new(early.bytes().to_vec(), socket));
    let mut accepting = std::pin::pin!(accepting);
    let stream = poll_fn(|context| match accepting.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(result.map_err(|error| why(&error))),
        Poll::Pending => deadline.poll_expired(context).map(|()| Err(Reason::TlsHandshakeFailed)),
    })
    .await?;
    let session = stream.get_ref().1;
    let certificate = shown(session.peer_certificates())?;
    gateway.totals.tls_handshakes.add_one();
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        gateway.totals.tls_resumed.add_one();
    }
    let http2 = session.alpn_protocol() == Some(b"h2");
    Ok(Secured { stream: Stream::new(Io::Tls(Box::new(stream.into())), deadline), http2, certificate })
}

/// What the client's certificate says. It is verified; but a session that is resumed was verified earlier,
/// and its certificate may have expired since.
fn shown(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<Rc<ClientCertificate>>, Reason> {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(None) };
    let certificate = ClientCertificate::read(leaf).map_err(|_| Reason::ClientCertificateRefused)?;
    if certificate.not_after_s < clock::wall_ms() / 1000 {
        return Err(Reason::ClientCertificateRefused);
    }
    Ok(Some(Rc::new(certificate)))
}

/// Why a handshake has failed: on this side rustls speaks of no certificate but the client's.
fn why(error: &io::Error) -> Reason {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Reason::ClientCertificateRefused
        }
        _ => Reason::TlsHandshakeFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_data::CLIENT;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn a_refused_certificate_is_told_from_other_failures() {
        let failed = |error: rustls::Error| why(&io::Error::new(io::ErrorKind::InvalidData, error));
        let revoked = rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked);
        assert_eq!(failed(revoked), Reason::ClientCertificateRefused);
        assert_eq!(failed(rustls::Error::NoCertificatesPresented), Reason::ClientCertificateRefused);
        assert_eq!(failed(rustls::Error::DecryptError), Reason::TlsHandshakeFailed);
        assert_eq!(why(&io::ErrorKind::UnexpectedEof.into()), Reason::TlsHandshakeFailed);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_no_certificate() {
        let good = CertificateDer::from_pem_slice(CLIENT.as_bytes()).expect("a certificate");
        assert!(shown(Some(&[good])).expect("good").is_some());
        assert_eq!(shown(None), Ok(None));
        let bad = CertificateDer::from(vec![0x30, 0]);
        assert_eq!(shown(Some(&[bad])), Err(Reason::ClientCertificateRefused));
    }
}
