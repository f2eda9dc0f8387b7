//! Response heads, as strictly as requests: what is ambiguous is a bad gateway, not a guess.

use std::mem::MaybeUninit;

use weirgate_shared::reason::Reason;

use super::{HeadScan, MAX_FIELDS, list_elements, parse_length};
use crate::message::{Framing, HeaderId, ResponseHead, Span};

/// The largest response head.
pub const HEADER_BYTES: usize = 64 * 1024;

/// Read a response head from the start of `input` into `head`.
///
/// `to_head` = it answers a HEAD request, so that it has no body whatever it says (RFC 9110 §9.3.2).
pub fn parse_response(
    input: &[u8],
    scan: &mut HeadScan,
    to_head: bool,
    head: &mut ResponseHead,
) -> Result<Option<usize>, Reason> {
    let start = &input[..input.len().min(5)];
    if start != &b"HTTP/"[..start.len()] {
        return Err(Reason::UpstreamBadResponse);
    }
    match scan.find_end(input).map_err(|_| Reason::UpstreamBadResponse)? {
        Some(end) if end <= HEADER_BYTES => parse_head(&input[..end], to_head, head).map(|()| Some(end)),
        None if input.len() <= HEADER_BYTES => Ok(None),
        _ => Err(Reason::UpstreamHeaderTooLarge),
    }
}

fn parse_head(input: &[u8], to_head: bool, head: &mut ResponseHead) -> Result<(), Reason> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let verdict = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut fields);
    match verdict {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::UpstreamHeaderTooLarge),
        _ => return Err(Reason::UpstreamBadResponse),
    }
    let (Some(version), Some(status)) = (parsed.version, parsed.code) else { return Err(Reason::UpstreamBadResponse) };
    if !(100..600).contains(&status) {
        return Err(Reason::UpstreamBadResponse);
    }
    head.clear();
    head.headers.reset(input);
    head.status = status;
    let span = |part: &[u8]| Span::new(part.as_ptr().addr() - input.as_ptr().addr(), part.len());

    let (mut length, mut coding, mut nominated) = (None, None, false);
    let (mut close, mut keep_alive) = (false, false);
    for field in parsed.headers.iter() {
        let id = HeaderId::of(field.name.as_bytes());
        match id {
            HeaderId::ContentLength => {
                let value = parse_length(field.value).ok_or(Reason::UpstreamBadResponse)?;
                if length.replace(value).is_some() {
                    return Err(Reason::UpstreamBadResponse);
                }
            }
            HeaderId::TransferEncoding if coding.replace(field.value).is_some() => {
                return Err(Reason::UpstreamBadResponse);
            }
            HeaderId::Connection => {
                for option in list_elements(field.value) {
                    match option.to_ascii_lowercase().as_slice() {
                        b"close" => close = true,
                        b"keep-alive" => keep_alive = true,
                        b"upgrade" => {}
                        _ => nominated = true,
                    }
                }
            }
            _ => {}
        }
        head.headers.push_span(id, span(field.name.as_bytes()), span(field.value));
    }
    let bodiless = to_head || status < 200 || matches!(status, 204 | 304);
    head.framing = match (coding, length) {
        (Some(coding), None) if version == 1 && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (Some(_), _) => return Err(Reason::UpstreamBadResponse),
        (None, Some(length)) => Framing::Length(length),
        (None, None) if bodiless => Framing::None,
        (None, None) => Framing::UntilClose,
    };
    head.keep_alive = !close && (version == 1 || keep_alive) && head.framing != Framing::UntilClose;
    if nominated {
        let options: Vec<Vec<u8>> = head
            .headers
            .values(b"connection")
            .flat_map(list_elements)
            .filter(|name| HeaderId::of(name) == HeaderId::Other)
            .map(<[u8]>::to_vec)
            .collect();
        for name in options {
            head.headers.remove(&name);
        }
    }
    Ok(())
}

/// Whether a response with this status to this request has a body at all (RFC 9112 §6.3).
#[must_use]
pub fn has_body(to_head: bool, status: u16) -> bool {
    !(to_head || status < 200 || matches!(status, 204 | 304))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, to_head: bool) -> Result<(u16, Framing, bool), Reason> {
        let mut head = ResponseHead::default();
        match parse_response(text.as_bytes(), &mut HeadScan::default(), to_head, &mut head)? {
            Some(_) => Ok((head.status, head.framing, head.keep_alive)),
            None => panic!("incomplete: {text:?}"),
        }
    }

    #[test]
    fn framing() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false), Ok((200, Framing::Length(5), true)));
        assert_eq!(
            read("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            Ok((200, Framing::Chunked, true))
        );
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n", false), Ok((200, Framing::UntilClose, false)));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), Ok((200, Framing::Length(5), true)));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n", false), Ok((204, Framing::None, true)));
        assert_eq!(read("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false), Ok((200, Framing::Length(5), false)));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false),
            Ok((200, Framing::Length(0), false))
        );
        assert!(!has_body(true, 200) && !has_body(false, 304) && has_body(false, 200));
    }

    #[test]
    fn refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 OK\nX: a\n\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 abc OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "<html>",
        ] {
            assert_eq!(read(bad, false), Err(Reason::UpstreamBadResponse), "{bad:?}");
        }
        let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(HEADER_BYTES));
        assert_eq!(read(&huge, false), Err(Reason::UpstreamHeaderTooLarge));
    }
}
