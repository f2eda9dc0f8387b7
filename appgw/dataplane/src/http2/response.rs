//! A response's head and trailers in the `h2` crate's form.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::message::{Framing, Headers, ResponseHead};

/// The head of a response (or of an interim one); `framing` says whether its length is known.
#[must_use]
pub fn response(head: &ResponseHead, framing: Framing) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let fields = response.headers_mut();
    fields.reserve(head.headers.len() + 1);
    copy(&head.headers, fields);
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
    copy(headers, &mut fields);
    Some(fields)
}

/// Connection fields stay behind (RFC 9113 §8.2.2); names become lower case.
fn copy(headers: &Headers, fields: &mut HeaderMap) {
    for (id, name, value) in headers.iter() {
        if id.is_hop_by_hop() {
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
