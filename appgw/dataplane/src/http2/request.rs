//! An HTTP/2 request's head and trailers in the internal form.

use bytes::Bytes;
use h2::ext::Protocol;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use weirgate_shared::reason::Reason;

use super::response::copy;
use crate::forwarded::replaced;
use crate::http1::{Limits, is_token_byte, may_trail, parse_length};
use crate::message::{Framing, HeaderId, Headers, RequestHead, Span, Version};
use crate::target;

/// Read a request into `head`; `ends` = no body follows.
///
/// Upper-case names, connection fields and wrong pseudo-header fields never come so far: the `h2` crate
/// has reset their streams (RFC 9113 §8.1.1).
pub fn read_request(parts: &Parts, ends: bool, limits: &Limits, head: &mut RequestHead) -> Result<(), Reason> {
    head.clear();
    head.version = Version::Http2;
    head.keep_alive = true;
    // A WebSocket is a GET that asks for an upgrade everywhere else (RFC 8441 §5).
    let protocol = parts.extensions.get::<Protocol>().filter(|_| parts.method == Method::CONNECT);
    let method = if protocol.is_some() { b"GET" } else { parts.method.as_str().as_bytes() };
    head.method = head.headers.store(method);
    if let Some(protocol) = protocol {
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Reason::ProtocolNotSupported);
        }
        head.upgrade = Some(head.headers.store(b"websocket"));
    }
    read_target(parts, limits, head)?;
    let mut length = None;
    let mut host = None;
    let mut cookies: Vec<u8> = Vec::new();
    let mut bytes = method.len() + head.path.len() + head.query.map_or(0, Span::len);
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if !is_name(name) {
            return Err(Reason::BadRequestFraming);
        }
        // As in HTTP/1: with the colon, the space and the line's end.
        bytes += name.len() + value.len() + 4;
        match HeaderId::of(name) {
            HeaderId::Host if host.replace(value).is_some() => return Err(Reason::BadHost),
            // Written anew from the authority.
            HeaderId::Host => {}
            HeaderId::ContentLength => {
                let said = parse_length(value).ok_or(Reason::BadRequestFraming)?;
                if length.replace(said).is_some() {
                    return Err(Reason::BadRequestFraming);
                }
            }
            // Split for compression, one field for everybody else (RFC 9113 §8.2.3).
            HeaderId::Cookie => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
            }
            HeaderId::Expect if value.eq_ignore_ascii_case(b"100-continue") => head.expects_continue = !ends,
            HeaderId::Expect => head.unknown_expectation = true,
            // Nothing else may stand in it here (RFC 9113 §8.2.2), and the crate has seen to that.
            HeaderId::Te => head.takes_trailers = true,
            id if id.is_hop_by_hop() => {}
            _ => head.headers.push(name, value),
        }
        if head.headers.len() >= limits.header_count || bytes > limits.header_bytes {
            return Err(Reason::HeaderTooLarge);
        }
    }
    if !cookies.is_empty() {
        head.headers.push(b"cookie", &cookies);
    }
    if head.expects_continue {
        head.headers.push(b"expect", b"100-continue");
    }
    read_authority(parts, host, head)?;
    head.framing = match length {
        _ if ends || head.upgrade.is_some() => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    Ok(())
}

/// The `http` crate takes a double quote in a name, which nobody else does (RFC 9110 §5.1).
pub(super) fn is_name(name: &[u8]) -> bool {
    name.iter().all(|&byte| is_token_byte(byte))
}

fn read_target(parts: &Parts, limits: &Limits, head: &mut RequestHead) -> Result<(), Reason> {
    if parts.method == Method::CONNECT && head.upgrade.is_none() {
        return Err(Reason::MethodNotSupported);
    }
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).as_bytes();
    if target.len() > limits.uri_bytes {
        return Err(Reason::UriTooLong);
    }
    let parsed = target::parse(head.method(), target)?;
    head.query = parsed.query.map(|query| head.headers.store(query));
    let path = target::normalise(parsed.path, limits.paths)?;
    head.path = head.headers.store(path.as_deref().unwrap_or(parsed.path));
    Ok(())
}

/// `:authority`, or else Host; both only when they say the same (RFC 9113 §8.3.1).
fn read_authority(parts: &Parts, host: Option<&[u8]>, head: &mut RequestHead) -> Result<(), Reason> {
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let one = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Reason::BadHost),
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => return Err(Reason::BadHost),
    };
    if !target::valid_host(one) {
        return Err(Reason::BadHost);
    }
    head.authority = head.headers.store(one);
    Ok(())
}

/// A request for an endpoint. `extra` is whole field lines that Weirgate adds, `host` the authority of a request
/// that names none. `None` = it has something that HTTP/2 cannot say.
#[must_use]
pub fn request(head: &RequestHead, extra: &[u8], scheme: &'static str, host: &[u8]) -> Option<Request<()>> {
    let authority = if head.authority.is_empty() { host } else { head.authority() };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::try_from(scheme).ok()?);
    parts.authority = Some(Authority::try_from(authority).ok()?);
    parts.path_and_query = Some(path_and_query(head)?);
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.method_mut() = Method::from_bytes(head.method()).ok()?;
    if let Some(protocol) = head.upgrade {
        if !head.bytes(protocol).eq_ignore_ascii_case(b"websocket") {
            return None;
        }
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    let fields = request.headers_mut();
    fields.reserve(head.headers.len() + 8);
    let key = |name: &[u8]| head.upgrade.is_some() && name.eq_ignore_ascii_case(b"sec-websocket-key");
    copy(&head.headers, fields, |id, name| id != HeaderId::Host && !replaced(id) && !key(name));
    for line in extra.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii_end();
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii_start()).ok()?);
    }
    if head.takes_trailers {
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    match head.framing {
        Framing::Length(length) => drop(fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length))),
        // A POST without a body still says so (RFC 9110 §8.6).
        Framing::None if matches!(head.method(), b"POST" | b"PUT" | b"PATCH") => {
            fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        _ => {}
    }
    Some(request)
}

/// The target; bytes that HTTP/1.1 lets pass and no URI has are percent-encoded (RFC 3986 §2).
fn path_and_query(head: &RequestHead) -> Option<PathAndQuery> {
    let mut target = head.path().to_vec();
    if let Some(query) = head.query() {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let target = Bytes::from(target);
    PathAndQuery::from_maybe_shared(target.clone()).ok().or_else(|| {
        let mut encoded = Vec::with_capacity(target.len() + 16);
        for &byte in &target {
            if b"\"<>\\^`{|}".contains(&byte) {
                encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
            } else {
                encoded.push(byte);
            }
        }
        PathAndQuery::from_maybe_shared(Bytes::from(encoded)).ok()
    })
}

/// Trailer fields that may be passed on.
#[must_use]
pub fn read_trailers(fields: &HeaderMap) -> Headers {
    let mut trailers = Headers::default();
    for (name, value) in fields {
        if is_name(name.as_str().as_bytes()) && may_trail(name.as_str().as_bytes()) {
            trailers.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::PathPolicy;
    use http::Request;

    const LIMITS: Limits = Limits { header_bytes: 1000, header_count: 6, uri_bytes: 50, paths: PathPolicy::KEEP };

    fn read(uri: &str, fields: &[(&str, &str)], ends: bool) -> Result<RequestHead, Reason> {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("valid").into_parts();
        let mut head = RequestHead::default();
        read_request(&parts, ends, &LIMITS, &mut head).map(|()| head)
    }

    #[test]
    fn a_request_and_its_body() {
        let head = read("https://a.example:1/x/../y?q", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")], true)
            .expect("valid");
        assert_eq!((head.method(), head.path(), head.query()), (&b"POST"[..], &b"/y"[..], Some(&b"q"[..])));
        assert_eq!((head.authority(), head.framing), (&b"a.example:1"[..], Framing::None));
        assert_eq!(head.headers.get(HeaderId::Cookie), Some(&b"a=1; b=2"[..]));
        assert!(head.headers.get(HeaderId::Host).is_none());
        assert_eq!(read("http://a/", &[], false).map(|head| head.framing), Ok(Framing::Chunked));
        let sized = read("http://a/", &[("content-length", "7"), ("expect", "100-continue")], false).expect("valid");
        assert_eq!((sized.framing, sized.expects_continue), (Framing::Length(7), true));
    }

    #[test]
    fn a_request_for_an_endpoint_reads_the_same_again() {
        let mut head = read("https://a.example:1/x?q=1", &[("x", "y"), ("te", "trailers")], false).expect("valid");
        let made = request(&head, b"X-Request-Id: 7\r\n", "http", b"fallback:1").expect("can be said");
        let (parts, ()) = made.into_parts();
        assert_eq!(parts.uri, "http://a.example:1/x?q=1");
        let fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x", &b"y"[..]), ("x-request-id", b"7"), ("te", b"trailers")]);
        let mut again = RequestHead::default();
        assert_eq!(read_request(&parts, false, &LIMITS, &mut again), Ok(()));
        assert_eq!((again.path(), again.query(), again.framing), (head.path(), head.query(), head.framing));
        head.path = head.headers.store(b"/a<b>\"");
        head.authority = Span::default();
        let made = request(&head, b"", "http", b"fallback:1").expect("encoded");
        assert_eq!(made.uri(), "http://fallback:1/a%3Cb%3E%22?q=1");
    }

    #[test]
    fn a_websocket_is_a_get_that_asks_for_an_upgrade() {
        let mut asked = Request::builder().method("CONNECT").uri("https://a/chat").body(()).expect("valid");
        asked.extensions_mut().insert(Protocol::from_static("websocket"));
        let mut head = RequestHead::default();
        let (parts, ()) = asked.into_parts();
        assert_eq!(read_request(&parts, false, &LIMITS, &mut head), Ok(()));
        assert_eq!((head.method(), head.framing), (&b"GET"[..], Framing::None));
        assert_eq!(head.upgrade.map(|span| head.bytes(span).to_vec()), Some(b"websocket".to_vec()));
        head.headers.push(b"Sec-WebSocket-Key", b"x");
        let made = request(&head, b"", "http", b"h").expect("can be said");
        assert_eq!(made.method(), Method::CONNECT);
        assert_eq!(made.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert!(made.headers().is_empty());
        let mut other = Request::builder().method("CONNECT").uri("https://a/x").body(()).expect("valid");
        other.extensions_mut().insert(Protocol::from_static("connect-udp"));
        let (parts, ()) = other.into_parts();
        assert_eq!(read_request(&parts, false, &LIMITS, &mut head), Err(Reason::ProtocolNotSupported));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let verdict = |uri: &str, fields: &[(&str, &str)]| read(uri, fields, false).map(|_| ());
        assert_eq!(verdict("http://a/", &[("host", "b")]), Err(Reason::BadHost));
        assert_eq!(verdict("http://a/", &[("host", "A")]), Ok(()));
        assert_eq!(verdict("http://a/", &[("host", "a"), ("host", "a")]), Err(Reason::BadHost));
        assert_eq!(verdict("/", &[]), Err(Reason::BadHost));
        assert_eq!(verdict("http://u@a/", &[]), Err(Reason::BadHost));
        assert_eq!(verdict("http://a/", &[("content-length", "+1")]), Err(Reason::BadRequestFraming));
        assert_eq!(
            verdict("http://a/", &[("content-length", "1"), ("content-length", "1")]),
            Err(Reason::BadRequestFraming)
        );
        assert_eq!(verdict("http://a/../..", &[]), Err(Reason::BadRequestTarget));
        assert_eq!(verdict(&format!("http://a/{}", "x".repeat(60)), &[]), Err(Reason::UriTooLong));
        let many: Vec<(&str, &str)> = (0..7).map(|_| ("x", "y")).collect();
        assert_eq!(verdict("http://a/", &many), Err(Reason::HeaderTooLarge));
        assert_eq!(verdict("http://a/", &[("x", &"y".repeat(1000))]), Err(Reason::HeaderTooLarge));
    }
}
