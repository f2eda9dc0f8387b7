//! An HTTP/2 request's head and trailers in the internal form.

use http::request::Parts;
use http::{HeaderMap, Method};
use weirgate_shared::reason::Reason;

use crate::http1::{Limits, may_trail, parse_length};
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
    let method = parts.method.as_str().as_bytes();
    head.method = head.headers.store(method);
    read_target(parts, limits, head)?;
    let mut length = None;
    let mut host = None;
    let mut cookies: Vec<u8> = Vec::new();
    let mut bytes = method.len() + head.path.len() + head.query.map_or(0, Span::len);
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
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
        _ if ends => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    Ok(())
}

fn read_target(parts: &Parts, limits: &Limits, head: &mut RequestHead) -> Result<(), Reason> {
    if parts.method == Method::CONNECT {
        return Err(Reason::MethodNotSupported);
    }
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).as_bytes();
    if target.len() > limits.uri_bytes {
        return Err(Reason::UriTooLong);
    }
    let parsed = target::parse(head.method(), target)?;
    head.query = parsed.query.map(|query| head.headers.store(query));
    head.path = if target::needs_normalising(parsed.path) {
        let path = target::normalise(parsed.path)?;
        head.headers.store(&path)
    } else {
        head.headers.store(parsed.path)
    };
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

/// Trailer fields that may be passed on.
#[must_use]
pub fn read_trailers(fields: &HeaderMap) -> Headers {
    let mut trailers = Headers::default();
    for (name, value) in fields {
        if may_trail(name.as_str().as_bytes()) {
            trailers.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const LIMITS: Limits = Limits { header_bytes: 1000, header_count: 6, uri_bytes: 50 };

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
