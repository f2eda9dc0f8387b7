//! Writing HTTP/1.1: heads from their parsed form, chunks, interim answers.

use weirgate_shared::json::push_u64;

use crate::message::{Framing, HeaderId, Headers, RequestHead, ResponseHead};

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Write a request head for an endpoint. `skip` names the fields that the caller has said anew in
/// `extra`, which is whole field lines.
pub fn request_head(out: &mut Vec<u8>, head: &RequestHead, skip: impl Fn(HeaderId) -> bool, extra: &[&[u8]]) {
    out.extend_from_slice(head.method());
    out.push(b' ');
    out.extend_from_slice(head.path());
    if let Some(query) = head.query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(head.authority());
    out.extend_from_slice(b"\r\n");
    for (id, name, value) in head.headers.iter() {
        if id != HeaderId::Host && !id.is_hop_by_hop() && !skip(id) {
            field(out, name, value);
        }
    }
    for lines in extra {
        out.extend_from_slice(lines);
    }
    match head.framing {
        Framing::Length(length) => length_field(out, length),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // A POST without a body still says so (RFC 9110 §8.6).
        Framing::None if matches!(head.method(), b"POST" | b"PUT" | b"PATCH") => length_field(out, 0),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = head.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        field(out, b"Upgrade", head.bytes(protocol));
    }
    out.extend_from_slice(b"\r\n");
}

fn length_field(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    push_u64(out, length);
    out.extend_from_slice(b"\r\n");
}

/// How a response leaves for the client.
#[derive(Debug, Clone, Copy)]
pub struct Departure {
    /// The framing on the client's side.
    pub framing: Framing,
    /// The connection stays open.
    pub keep_alive: bool,
    /// The client spoke HTTP/1.0.
    pub http10: bool,
}

/// Write a response head for the client.
pub fn response_head(out: &mut Vec<u8>, head: &ResponseHead, departure: Departure) {
    status_line(out, head.status);
    for (id, name, value) in head.headers.iter() {
        if !id.is_hop_by_hop() {
            field(out, name, value);
        }
    }
    match departure.framing {
        Framing::Length(length) => length_field(out, length),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if head.status == 101 {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        if let Some(protocol) = head.headers.get(HeaderId::Upgrade) {
            field(out, b"Upgrade", protocol);
        }
    } else if !departure.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if departure.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Write an interim (1xx) response.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head.status);
    for (id, name, value) in head.headers.iter() {
        if !id.is_hop_by_hop() {
            field(out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Write one chunk (not an empty one: that would end the body).
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if data.is_empty() {
        return;
    }
    let length = data.len();
    let mut started = false;
    for shift in (0..16).rev() {
        let digit = (length >> (shift * 4)) & 15;
        if digit != 0 || started {
            started = true;
            out.push(DIGITS[digit]);
        }
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// End a chunked body.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &Headers) {
    out.extend_from_slice(b"0\r\n");
    for (_, name, value) in trailers.iter() {
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Write bytes of a body.
pub fn body_data(out: &mut Vec<u8>, data: &[u8], framing: Framing) {
    if framing == Framing::Chunked {
        chunk(out, data);
    } else {
        out.extend_from_slice(data);
    }
}

/// End a body.
pub fn body_end(out: &mut Vec<u8>, trailers: Option<&Headers>, framing: Framing) {
    if framing == Framing::Chunked {
        last_chunk(out, trailers.unwrap_or(&Headers::default()));
    }
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_u64(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The usual reason phrase. The endpoint's own is not passed on: it means nothing (RFC 9112 §4).
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadScan, Limits, PathPolicy, parse_request, parse_response};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { header_bytes: 10_000, header_count: 100, uri_bytes: 1000, paths: PathPolicy::KEEP };

    proptest! {
        /// The differential oracle of field-l7 §4: what is forwarded must parse the same.
        #[test]
        fn a_forwarded_request_reads_the_same_again(
            method in "[A-Z]{1,8}", path in "/[a-z/.%0-9]{0,20}", query in prop::option::of("[a-z=&]{0,9}"),
            fields in prop::collection::vec(("[A-Za-z-]{1,12}", "[ -~]{0,20}"), 0..8), length in prop::option::of(0u64..1000),
        ) {
            let mut text = format!("{method} {path}{} HTTP/1.1\r\nHost: a\r\n", query.map(|q| format!("?{q}")).unwrap_or_default());
            for (name, value) in &fields {
                text.push_str(&[name, ": ", value, "\r\n"].concat());
            }
            if let Some(length) = length {
                text.push_str(&["Content-Length: ", &length.to_string(), "\r\n"].concat());
            }
            text += "\r\n";
            let (mut first, mut second) = (RequestHead::default(), RequestHead::default());
            if let Ok(Some(_)) = parse_request(text.as_bytes(), &mut HeadScan::default(), &LIMITS, &mut first) {
                let mut wire = Vec::new();
                request_head(&mut wire, &first, |_| false, &[]);
                let verdict = parse_request(&wire, &mut HeadScan::default(), &LIMITS, &mut second);
                prop_assert_eq!(verdict, Ok(Some(wire.len())));
                prop_assert_eq!((second.method(), second.path(), second.query(), second.framing), (first.method(), first.path(), first.query(), first.framing));
                let mut again = Vec::new();
                request_head(&mut again, &second, |_| false, &[]);
                prop_assert_eq!(again, wire);
            }
        }
    }

    #[test]
    fn a_response_head_reads_the_same_again() {
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.push(b"X", b"y");
        head.headers.push(b"Connection", b"close");
        let mut wire = Vec::new();
        response_head(&mut wire, &head, Departure { framing: Framing::Length(3), keep_alive: true, http10: false });
        assert_eq!(wire, b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\n");
        let mut read = ResponseHead::default();
        assert_eq!(parse_response(&wire, &mut HeadScan::default(), false, &mut read), Ok(Some(wire.len())));
        assert_eq!(read.framing, Framing::Length(3));
    }
}
