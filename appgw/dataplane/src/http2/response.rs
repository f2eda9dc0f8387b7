//! A response's head and trailers, to and from the `h2` crate's form.

use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use weirgate_shared::reason::Reason;

use super::request::is_name;
use crate::http1::{MAX_FIELDS, RESPONSE_HEADER_BYTES, parse_length};
use crate::message::{Framing, HeaderId, Headers, ResponseHead};

/// The head of a response (or of an interim one); `framing` says whether its length is known.
#[must_use]
pub fn response(head: &ResponseHead, framing: Framing) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().reserve(head.headers.len() + 1);
    let upgrade = head.status == 101;
    if upgrade {
        // The stream itself is the upgraded connection (RFC 8441 §5).
        *response.status_mut() = StatusCode::OK;
    }
    let fields = response.headers_mut();
    copy(&head.headers, fields, |_, _| true);
    if let Framing::Length(length) = framing {
        fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

/// Trailer fields; `None` when there are none.
#[must_use]
pub fn trailers(headers: &Headers) -> Option<HeaderMap> {
    if headers.is_empty() {
        return None;
    }
    let mut fields = HeaderMap::with_capacity(headers.len());
    copy(headers, &mut fields, |_, _| true);
    Some(fields)
}

/// Read an endpoint's response head, interim or final; `ends` = no body follows.
///
/// Errors: `upstream_bad_response` for a length that is none, or more than one, and for names that HTTP/1.1 does
/// not know; `upstream_header_too_large`.
pub fn read_response(parts: &Parts, ends: bool, to_head: bool, head: &mut ResponseHead) -> Result<(), Reason> {
    head.clear();
    head.status = parts.status.as_u16();
    head.keep_alive = true;
    let (mut length, mut bytes) = (None, 0);
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if !is_name(name) {
            return Err(Reason::UpstreamBadResponse);
        }
        // As in HTTP/1: with the colon, the space and the line's end.
        bytes += name.len() + value.len() + 4;
        if bytes > RESPONSE_HEADER_BYTES || head.headers.len() >= MAX_FIELDS {
            return Err(Reason::UpstreamHeaderTooLarge);
        }
        match HeaderId::of(name) {
            HeaderId::ContentLength => {
                let said = parse_length(value).ok_or(Reason::UpstreamBadResponse)?;
                if length.replace(said).is_some() {
                    return Err(Reason::UpstreamBadResponse);
                }
            }
            id if id.is_hop_by_hop() => {}
            _ => head.headers.push(name, value),
        }
    }
    let bodiless = to_head || matches!(head.status, 100..200 | 204 | 304);
    head.framing = match length {
        Some(length) if bodiless || !ends => Framing::Length(length),
        Some(_) | None if ends || bodiless => Framing::None,
        _ => Framing::Chunked,
    };
    Ok(())
}

/// Make the success that answers an extended CONNECT what it is in HTTP/1.1: a changed protocol.
pub fn accept_upgrade(head: &mut ResponseHead) {
    head.status = 101;
    head.framing = Framing::None;
    head.headers.push(b"Upgrade", b"websocket");
}

/// Connection fields stay behind (RFC 9113 §8.2.2), and so does what is not `wanted`; names become lower case.
pub(super) fn copy(headers: &Headers, fields: &mut HeaderMap, wanted: impl Fn(HeaderId, &[u8]) -> bool) {
    for (id, name, value) in headers.iter() {
        if id.is_hop_by_hop() || !wanted(id, name) {
            continue;
        }
        // Both were checked when they were read: what cannot be said in HTTP/2 was not said in HTTP/1 either.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_answer_and_its_framing() {
        let read = |status: u16, fields: &[(&str, &str)], ends: bool, to_head: bool| {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            let (parts, ()) = response.body(()).expect("valid").into_parts();
            let mut head = ResponseHead::default();
            read_response(&parts, ends, to_head, &mut head).map(|()| head.framing)
        };
        assert_eq!(read(200, &[], false, false), Ok(Framing::Chunked));
        assert_eq!(read(200, &[], true, false), Ok(Framing::None));
        assert_eq!(read(200, &[("content-length", "5")], false, false), Ok(Framing::Length(5)));
        assert_eq!(read(200, &[("content-length", "5")], true, true), Ok(Framing::Length(5)));
        assert_eq!(read(304, &[("content-length", "5")], true, false), Ok(Framing::Length(5)));
        assert_eq!(read(204, &[], true, false), Ok(Framing::None));
        for bad in [&[("content-length", "x")][..], &[("content-length", "1"), ("content-length", "1")]] {
            assert_eq!(read(200, bad, false, false), Err(Reason::UpstreamBadResponse));
        }
    }

    #[test]
    fn connection_fields_stay_behind_and_the_length_is_ours() {
        let mut head = ResponseHead { status: 404, ..ResponseHead::default() };
        for (name, value) in [
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
            ("Connection", "x"),
            ("Content-Length", "9"),
            ("Keep-Alive", "1"),
        ] {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        let made = response(&head, Framing::Length(3));
        assert_eq!(made.status(), 404);
        let fields: Vec<_> = made.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("set-cookie", &b"a"[..]), ("set-cookie", b"b"), ("content-length", b"3")]);
        assert!(trailers(&Headers::default()).is_none());
    }
}
