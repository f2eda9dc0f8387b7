//! Request heads: the line, the fields, and what they say of body and connection.

use std::mem::MaybeUninit;

use weirgate_shared::reason::Reason;

use super::{HeadScan, Limits, MAX_FIELDS, is_token_byte, list_elements, parse_length};
use crate::message::{Framing, HeaderId, RequestHead, Span, Version};
use crate::target;

/// Room for the method and version beside the target in the first line.
const LINE_SLACK: usize = 64;

/// Read a request head from the start of `input` into `head`.
///
/// `Ok(Some(length))` = read, so many bytes belong to it; `Ok(None)` = more bytes are needed. An error
/// is final for the connection: where the next message begins is no longer known.
pub fn parse_request(
    input: &[u8],
    scan: &mut HeadScan,
    limits: &Limits,
    head: &mut RequestHead,
) -> Result<Option<usize>, Reason> {
    // Garbage (a TLS hello, say) is answered at once, not after the head's timeout.
    if input.first().is_some_and(|&byte| !is_token_byte(byte)) {
        return Err(Reason::BadRequestFraming);
    }
    let end = scan.find_end(input).map_err(|_| Reason::BadRequestFraming)?;
    let line_end = memchr::memchr(b'\r', &input[..input.len().min(limits.uri_bytes + LINE_SLACK)]);
    if line_end.is_none() && input.len() > limits.uri_bytes + LINE_SLACK {
        return Err(Reason::UriTooLong);
    }
    let Some(end) = end else {
        return if input.len() > limits.header_bytes { Err(Reason::HeaderTooLarge) } else { Ok(None) };
    };
    if end > limits.header_bytes {
        return Err(Reason::HeaderTooLarge);
    }
    parse_head(&input[..end], line_end.unwrap_or(end), limits, head).map(|()| Some(end))
}

fn parse_head(input: &[u8], line_end: usize, limits: &Limits, head: &mut RequestHead) -> Result<(), Reason> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let room = limits.header_count.min(MAX_FIELDS);
    match parsed.parse_with_uninit_headers(input, &mut fields[..room]) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeaderTooLarge),
        Err(httparse::Error::Version) if has_http_version(&input[..line_end]) => {
            return Err(Reason::VersionNotSupported);
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(Reason::BadRequestFraming),
    }
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Reason::BadRequestFraming);
    };
    if path.len() > limits.uri_bytes {
        return Err(Reason::UriTooLong);
    }
    head.clear();
    head.headers.reset(input);
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let span = |part: &[u8]| Span::new(part.as_ptr().addr() - input.as_ptr().addr(), part.len());
    head.method = span(method.as_bytes());

    let mut facts = Facts::default();
    for field in parsed.headers.iter() {
        let id = HeaderId::of(field.name.as_bytes());
        facts.note(id, field.value)?;
        head.headers.push_span(id, span(field.name.as_bytes()), span(field.value));
    }

    let target = target::parse(method.as_bytes(), path.as_bytes())?;
    head.query = target.query.map(span);
    head.path = if target.path.len() == 1 {
        head.headers.store(target.path)
    } else {
        match target::normalise(target.path, limits.paths)? {
            Some(path) => head.headers.store(&path),
            None => span(target.path),
        }
    };
    let host = facts.host(head.version == Version::Http10)?;
    let authority = target.authority.or(host).unwrap_or_default();
    if (target.authority.is_some() || host.is_some()) && !target::valid_host(authority) {
        return Err(Reason::BadHost);
    }
    head.authority = span_or_empty(authority, span);
    facts.finish(head)
}

fn span_or_empty(bytes: &[u8], span: impl Fn(&[u8]) -> Span) -> Span {
    if bytes.is_empty() { Span::default() } else { span(bytes) }
}

/// `… HTTP/d.d`: a version, though not one that is spoken here (RFC 9110 §15.6.6).
fn has_http_version(line: &[u8]) -> bool {
    matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// What the fields say of body and connection, gathered in one pass.
#[derive(Default)]
struct Facts<'a> {
    hosts: usize,
    host: &'a [u8],
    length: Option<u64>,
    coding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    upgrade_asked: bool,
    nominated: bool,
    upgrade: Option<&'a [u8]>,
    expects_continue: bool,
    unknown_expectation: bool,
    takes_trailers: bool,
}

impl<'a> Facts<'a> {
    fn note(&mut self, id: HeaderId, value: &'a [u8]) -> Result<(), Reason> {
        match id {
            HeaderId::Host => {
                self.hosts += 1;
                self.host = value;
            }
            // Repeated fields are refused even when equal: two parsers may pick different ones (RFC 9112 §6.3).
            HeaderId::ContentLength => {
                let length = parse_length(value).ok_or(Reason::BadRequestFraming)?;
                if self.length.replace(length).is_some() {
                    return Err(Reason::BadRequestFraming);
                }
            }
            HeaderId::TransferEncoding if self.coding.replace(value).is_some() => {
                return Err(Reason::BadRequestFraming);
            }
            HeaderId::Connection => {
                for option in list_elements(value) {
                    match option.to_ascii_lowercase().as_slice() {
                        b"close" => self.close = true,
                        b"keep-alive" => self.keep_alive = true,
                        b"upgrade" => self.upgrade_asked = true,
                        _ => self.nominated = true,
                    }
                }
            }
            HeaderId::Upgrade => self.upgrade = Some(value),
            HeaderId::Te => {
                self.takes_trailers |= list_elements(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            HeaderId::Expect => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    self.expects_continue = true;
                } else {
                    self.unknown_expectation = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Exactly one Host, which HTTP/1.0 may leave out (RFC 9112 §3.2).
    fn host(&self, http10: bool) -> Result<Option<&'a [u8]>, Reason> {
        match self.hosts {
            1 => Ok(Some(self.host)),
            0 if http10 => Ok(None),
            _ => Err(Reason::BadHost),
        }
    }

    fn finish(self, head: &mut RequestHead) -> Result<(), Reason> {
        head.framing = match (self.coding, self.length) {
            (None, None | Some(0)) => Framing::None,
            (None, Some(length)) => Framing::Length(length),
            // Both, or a coding in HTTP/1.0, is how requests are smuggled (RFC 9112 §6.1, §11.2).
            (Some(_), Some(_)) => return Err(Reason::BadRequestFraming),
            (Some(_), None) if head.version == Version::Http10 => return Err(Reason::BadRequestFraming),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            (Some(coding), None) => return Err(other_coding(coding)),
        };
        if head.version == Version::Http10 {
            head.keep_alive = self.keep_alive && !self.close;
        } else {
            head.keep_alive = !self.close;
            head.expects_continue = self.expects_continue && head.framing != Framing::None;
        }
        if let Some(protocol) = self.upgrade
            && self.upgrade_asked
            && may_upgrade(protocol, head)
        {
            head.upgrade = Some(head.headers.store(protocol));
        }
        if self.nominated {
            remove_nominated(head);
        }
        head.takes_trailers = self.takes_trailers;
        head.unknown_expectation = self.unknown_expectation;
        if self.expects_continue || self.unknown_expectation {
            head.headers.remove(b"expect");
        }
        if head.expects_continue {
            head.headers.push(b"Expect", b"100-continue");
        }
        Ok(())
    }
}

/// A list of codings that ends in `chunked` is well formed but not spoken here; anything else is malformed.
fn other_coding(coding: &[u8]) -> Reason {
    let mut codings: Vec<&[u8]> = coding.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).collect();
    let last = codings.pop();
    let known =
        |name: &&[u8]| [&b"gzip"[..], b"x-gzip", b"deflate", b"compress"].iter().any(|k| name.eq_ignore_ascii_case(k));
    let ends_well = last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    if ends_well && !codings.is_empty() && codings.iter().all(known) {
        Reason::CodingNotSupported
    } else {
        Reason::BadRequestFraming
    }
}

/// An upgrade is passed on when the request has no body. Never to h2c, which hides requests from the routes.
fn may_upgrade(protocol: &[u8], head: &RequestHead) -> bool {
    head.version != Version::Http10
        && head.framing == Framing::None
        && !protocol.is_empty()
        && list_elements(protocol).all(|p| !p.eq_ignore_ascii_case(b"h2c") && !p.eq_ignore_ascii_case(b"h2"))
}

/// Remove the fields that Connection names (RFC 9110 §7.6.1), but none that the message itself needs:
/// `Connection: host` must not make a request lose its host.
fn remove_nominated(head: &mut RequestHead) {
    let options: Vec<Vec<u8>> = head
        .headers
        .values(b"connection")
        .flat_map(list_elements)
        .filter(|name| matches!(HeaderId::of(name), HeaderId::Other | HeaderId::XForwardedOther))
        .map(<[u8]>::to_vec)
        .collect();
    for name in options {
        head.headers.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::PathPolicy;

    const LIMITS: Limits = Limits { header_bytes: 1000, header_count: 10, uri_bytes: 100, paths: PathPolicy::KEEP };

    fn read(text: &str) -> Result<RequestHead, Reason> {
        let mut head = RequestHead::default();
        match parse_request(text.as_bytes(), &mut HeadScan::default(), &LIMITS, &mut head)? {
            Some(_) => Ok(head),
            None => panic!("incomplete: {text:?}"),
        }
    }

    #[test]
    fn a_plain_request() {
        let head = read("GET /a/b?c=d HTTP/1.1\r\nHost: shop.example:80\r\nX:  y \r\n\r\n").expect("valid");
        assert_eq!((head.method(), head.path(), head.query()), (&b"GET"[..], &b"/a/b"[..], Some(&b"c=d"[..])));
        assert_eq!((head.authority(), head.framing, head.keep_alive), (&b"shop.example:80"[..], Framing::None, true));
        assert_eq!(head.headers.values(b"x").next(), Some(&b"y"[..]));
    }

    #[test]
    fn framing_and_connection() {
        let with = |fields: &str| read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert_eq!(with("Content-Length: 12").map(|h| h.framing), Ok(Framing::Length(12)));
        assert_eq!(with("Transfer-Encoding: Chunked").map(|h| h.framing), Ok(Framing::Chunked));
        assert_eq!(with("Connection: x, close").map(|h| h.keep_alive), Ok(false));
        let upgraded = with("Connection: Upgrade\r\nUpgrade: websocket").expect("valid");
        assert_eq!(upgraded.upgrade.map(|span| upgraded.bytes(span).to_vec()), Some(b"websocket".to_vec()));
        assert_eq!(with("Connection: Upgrade\r\nUpgrade: h2c").expect("valid").upgrade, None);
        assert_eq!(with("Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1").expect("valid").upgrade, None);
        assert!(with("Expect: 200-ok").expect("valid").unknown_expectation);
        let nominated = with("Connection: x-secret, host\r\nX-Secret: 1").expect("valid");
        assert_eq!(nominated.headers.values(b"x-secret").count(), 0);
        assert_eq!(nominated.authority(), b"a");
        let old = read("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("valid");
        assert!(old.version == Version::Http10 && old.keep_alive && old.authority().is_empty());
    }

    #[test]
    fn refused() {
        let long = "x".repeat(101);
        let many = "A: b\r\n".repeat(11);
        for (text, reason) in [
            ("GET / HTTP/1.1\r\n\r\n", Reason::BadHost),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::BadHost),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::BadHost),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Reason::BadHost),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reason::VersionNotSupported),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Reason::BadRequestFraming),
            ("GET /\r\n\r\n", Reason::BadRequestFraming),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadRequestFraming),
            ("GET / HTTP/1.1\nHost: a\n\n", Reason::BadRequestFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Reason::BadRequestFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", Reason::BadRequestFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Reason::BadRequestFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Reason::BadRequestFraming),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Reason::BadRequestFraming,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Reason::BadRequestFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Reason::CodingNotSupported),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::BadRequestFraming),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::MethodNotSupported),
            (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), Reason::UriTooLong),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), Reason::HeaderTooLarge),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long.repeat(10)), Reason::HeaderTooLarge),
            ("\x16\x03\x01", Reason::BadRequestFraming),
        ] {
            let mut head = RequestHead::default();
            let verdict = parse_request(text.as_bytes(), &mut HeadScan::default(), &LIMITS, &mut head);
            assert_eq!(verdict, Err(reason), "{text:?}");
        }
    }
}
