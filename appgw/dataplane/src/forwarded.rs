//! What an application is told of the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), `X-Request-Id`.
//!
//! What a client says of itself in these fields is dropped, unless the listener trusts its address.

use std::net::{IpAddr, SocketAddr};

use weirgate_shared::cidr::{CidrSet, canonical};
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::json::push_u64;

use crate::client_certificate::ClientCertificate;
use crate::message::{HeaderId, RequestHead};

const REQUEST_ID_BYTES: usize = 128;
/// A proxy's word about its own client's certificate is kept only where there is none of our own.
const CLIENT_CERTIFICATE: &[u8] = b"x-forwarded-client-cert";

/// Field lines that are the same for every request of a connection.
pub(crate) struct Introduction {
    address: String,
    node: String,
    scheme: &'static str,
    lines: Vec<u8>,
    /// `X-Forwarded-Client-Cert` with its line's end; empty without a certificate.
    certificate: String,
}

impl Introduction {
    pub(crate) fn new(client: SocketAddr, tls: bool, certificate: Option<&ClientCertificate>) -> Self {
        let address = client.ip().to_string();
        let node = match client.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let scheme = if tls { "https" } else { "http" };
        let lines =
            format!("X-Forwarded-For: {address}\r\nX-Forwarded-Proto: {scheme}\r\nX-Forwarded-Host: ").into_bytes();
        let certificate = certificate.map(|certificate| certificate.forwarded() + "\r\n").unwrap_or_default();
        Self { address, node, scheme, lines, certificate }
    }

    /// Append the field lines for one request.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        head: &RequestHead,
        original_authority: &[u8],
        trusted: bool,
        request_id: &[u8],
    ) {
        if trusted {
            self.write_trusted(out, head, original_authority);
        } else {
            out.extend_from_slice(&self.lines);
            out.extend_from_slice(original_authority);
            out.extend_from_slice(b"\r\nForwarded: ");
            self.write_element(out, original_authority);
        }
        out.extend_from_slice(b"\r\nX-Request-Id: ");
        out.extend_from_slice(request_id);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.certificate.as_bytes());
    }

    fn write_element(&self, out: &mut Vec<u8>, authority: &[u8]) {
        out.extend_from_slice(b"for=");
        out.extend_from_slice(self.node.as_bytes());
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(self.scheme.as_bytes());
        if !authority.is_empty() {
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(authority);
            out.push(b'"');
        }
    }

    /// The peer is a proxy of ours: what it says stays, and we add ourselves at the end.
    fn write_trusted(&self, out: &mut Vec<u8>, head: &RequestHead, authority: &[u8]) {
        let list = |out: &mut Vec<u8>, name: &'static [u8]| {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            for value in head.headers.values(name).filter(|value| !value.is_empty()) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        };
        let kept = |id: HeaderId, own: &[u8]| head.headers.get(id).unwrap_or(own).to_vec();
        list(out, b"X-Forwarded-For");
        out.extend_from_slice(self.address.as_bytes());
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
        out.extend_from_slice(&kept(HeaderId::XForwardedProto, self.scheme.as_bytes()));
        out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        out.extend_from_slice(&kept(HeaderId::XForwardedHost, authority));
        out.extend_from_slice(b"\r\n");
        list(out, b"Forwarded");
        self.write_element(out, authority);
    }
}

/// Whether a field of the request is left out because [`Introduction::write`] says it anew.
pub(crate) fn replaced(id: HeaderId) -> bool {
    matches!(
        id,
        HeaderId::Forwarded
            | HeaderId::XForwardedFor
            | HeaderId::XForwardedHost
            | HeaderId::XForwardedProto
            | HeaderId::XRequestId
    )
}

/// Remove what the client may not say of itself, and what this connection knows better. Before the filters,
/// which may set such fields themselves.
pub(crate) fn remove_hearsay(head: &mut RequestHead, trusted: bool, certificate: Option<&ClientCertificate>) {
    if !trusted {
        head.headers.remove_id(HeaderId::XForwardedOther);
    } else if certificate.is_some() {
        head.headers.remove(CLIENT_CERTIFICATE);
    }
}

/// The client behind a trusted proxy: the last address of `X-Forwarded-For` that is not itself a
/// trusted proxy's. `None` = the field says nothing usable, and the peer stands for the client.
pub(crate) fn client_behind(head: &RequestHead, trusted: &CidrSet) -> Option<IpAddr> {
    let fields: Vec<&[u8]> = head.headers.values(b"x-forwarded-for").collect();
    let mut client = None;
    for element in fields.into_iter().rev().flat_map(|field| field.rsplit(|&byte| byte == b',')) {
        let address = std::str::from_utf8(element.trim_ascii()).ok()?.parse().ok()?;
        client = Some(canonical(address));
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// The request's id: a trusted peer's own, else the connection's id and the request's number on it.
pub(crate) fn request_id(out: &mut Vec<u8>, head: &RequestHead, trusted: bool, connection: ConnectionId, number: u64) {
    out.clear();
    let sound = |id: &&[u8]| !id.is_empty() && id.len() <= REQUEST_ID_BYTES && id.iter().all(u8::is_ascii_graphic);
    if let Some(id) = head.headers.get(HeaderId::XRequestId).filter(|_| trusted).filter(sound) {
        out.extend_from_slice(id);
        return;
    }
    out.extend_from_slice(&connection.hex());
    out.push(b'-');
    push_u64(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(client: &str, fields: &[(&str, &str)], trusted: bool) -> String {
        let mut head = RequestHead::default();
        for (name, value) in fields {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        let (mut id, mut out) = (Vec::new(), Vec::new());
        request_id(&mut id, &head, trusted, ConnectionId(1), 2);
        let introduction = Introduction::new(client.parse().expect("valid"), true, None);
        introduction.write(&mut out, &head, b"shop.example", trusted, &id);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_stranger_cannot_speak_for_itself() {
        let forged = [
            ("X-Forwarded-For", "1.1.1.1"),
            ("Forwarded", "for=1.1.1.1"),
            ("X-Request-Id", "mine"),
            ("X-Forwarded-Host", "evil"),
        ];
        assert_eq!(
            lines("[2001:db8::1]:5", &forged, false),
            "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\
             Forwarded: for=\"[2001:db8::1]\";proto=https;host=\"shop.example\"\r\nX-Request-Id: 00000000000000000000000000000001-2\r\n"
        );
        assert!(replaced(HeaderId::XForwardedFor) && !replaced(HeaderId::XForwardedOther));
    }

    #[test]
    fn a_certificate_is_told_of_by_who_has_verified_it() {
        let own = ClientCertificate { subject: "CN=a".into(), fingerprint: "ab".into(), ..Default::default() };
        let introduced = |certificate: Option<&ClientCertificate>, trusted: bool| {
            let mut head = RequestHead::default();
            head.headers.push(b"X-Forwarded-Client-Cert", b"Hash=forged");
            head.headers.push(b"X-Forwarded-Port", b"443");
            remove_hearsay(&mut head, trusted, certificate);
            let left: Vec<_> = head.headers.iter().map(|(_, name, _)| name.to_ascii_lowercase()).collect();
            let mut out = Vec::new();
            Introduction::new(([10, 0, 0, 1], 5).into(), true, certificate).write(&mut out, &head, b"a", trusted, b"1");
            let text = String::from_utf8(out).expect("ASCII");
            let told = text.split("\r\n").filter(|line| line.starts_with("X-Forwarded-Client-Cert"));
            (left.len(), told.map(str::to_owned).collect::<Vec<_>>())
        };
        let line = vec!["X-Forwarded-Client-Cert: Hash=ab;Subject=\"CN=a\"".to_owned()];
        assert_eq!(introduced(None, false), (0, vec![]));
        assert_eq!(introduced(Some(&own), false), (0, line.clone()));
        assert_eq!(introduced(None, true), (2, vec![]));
        assert_eq!(introduced(Some(&own), true), (1, line));
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted = CidrSet::parse(&["10.0.0.0/8"]).expect("valid");
        let behind = |fields: &[&str]| {
            let mut head = RequestHead::default();
            for value in fields {
                head.headers.push(b"X-Forwarded-For", value.as_bytes());
            }
            client_behind(&head, &trusted).map(|address| address.to_string())
        };
        assert_eq!(behind(&["1.1.1.1, 6.6.6.6, 10.1.1.1"]).as_deref(), Some("6.6.6.6"));
        assert_eq!(behind(&["1.1.1.1", "10.0.0.1, 10.0.0.2"]).as_deref(), Some("1.1.1.1"));
        assert_eq!(behind(&["10.0.0.1"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(behind(&["unknown"]), None);
        assert_eq!(behind(&[]), None);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_we_stand_behind_it() {
        let said = [
            ("X-Forwarded-For", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("X-Forwarded-Proto", "http"),
            ("X-Request-Id", "theirs"),
        ];
        let text = lines("10.0.0.1:5", &said, true);
        assert!(
            text.starts_with("X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.1\r\nX-Forwarded-Proto: http\r\n"),
            "{text}"
        );
        assert!(
            text.ends_with("Forwarded: for=10.0.0.1;proto=https;host=\"shop.example\"\r\nX-Request-Id: theirs\r\n"),
            "{text}"
        );
    }
}
