//! The bridge between gRPC-Web, which browsers can speak, and gRPC (the "gRPC-Web" protocol document).
//!
//! Messages are framed alike; the trailers come as one more frame of the body. In the `-text` form the
//! body is base64, in pieces that may each have padding of their own.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use weirgate_shared::reason::Reason;

use crate::message::{HeaderId, Headers, RequestHead, ResponseHead};

const WEB: &[u8] = b"application/grpc-web";
const TEXT: &[u8] = b"application/grpc-web-text";
const GRPC: &[u8] = b"application/grpc";
/// The first byte of a frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// One bridged call.
pub struct Bridge {
    text: bool,
    /// What stands behind the kind in the content type, such as `+proto`.
    suffix: Vec<u8>,
    /// Base64 of the request that does not make a whole group yet.
    encoded: Vec<u8>,
    /// Bytes of the answer that do not make a whole group yet.
    plain: Vec<u8>,
}

impl Bridge {
    /// Make a gRPC-Web request into a gRPC one. `None` = it is none.
    pub fn open(head: &mut RequestHead) -> Option<Self> {
        let kind = head.headers.get(HeaderId::ContentType)?.to_ascii_lowercase();
        let rest = kind.strip_prefix(WEB)?;
        let (text, suffix) = match rest.strip_prefix(b"-text") {
            Some(suffix) => (true, suffix),
            None => (false, rest),
        };
        if !matches!(suffix.first(), None | Some(b'+' | b';')) {
            return None;
        }
        head.headers.set(b"content-type", &[GRPC, suffix].concat());
        head.headers.remove(b"x-grpc-web");
        head.takes_trailers = true;
        let suffix = suffix.split(|&byte| byte == b';').next().unwrap_or_default().to_vec();
        Some(Self { text, suffix, encoded: Vec::new(), plain: Vec::new() })
    }

    /// Append what bytes of the request's body mean.
    ///
    /// Errors: `bad_request_framing` for what is no base64.
    pub fn request_data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
        if !self.text {
            out.extend_from_slice(data);
            return Ok(());
        }
        self.encoded.extend(data.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let whole = self.encoded.len() / 4 * 4;
        // Each piece that ends in padding stands for itself.
        for group in self.encoded[..whole].chunks_exact(4) {
            let mut bytes = [0; 3];
            let count = BASE64_STANDARD.decode_slice(group, &mut bytes).map_err(|_| Reason::BadRequestFraming)?;
            out.extend_from_slice(&bytes[..count]);
        }
        self.encoded.drain(..whole);
        Ok(())
    }

    /// The request's body has ended.
    ///
    /// Errors: `bad_request_framing` when it broke off within a group.
    pub fn request_end(&self) -> Result<(), Reason> {
        if self.encoded.is_empty() { Ok(()) } else { Err(Reason::BadRequestFraming) }
    }

    /// Make the head of the answer into one of gRPC-Web.
    pub fn response_head(&self, head: &mut ResponseHead) {
        let kind = if self.text { TEXT } else { WEB };
        head.headers.set(b"Content-Type", &[kind, &self.suffix[..]].concat());
        head.headers.remove(b"trailer");
    }

    /// Append what bytes of the answer's body become.
    pub fn response_data(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if !self.text {
            out.extend_from_slice(data);
            return;
        }
        self.plain.extend_from_slice(data);
        let whole = self.plain.len() / 3 * 3;
        out.extend_from_slice(BASE64_STANDARD.encode(&self.plain[..whole]).as_bytes());
        self.plain.drain(..whole);
    }

    /// Nothing more is here for the moment: what waits for a whole group goes out with padding.
    pub fn response_pause(&mut self, out: &mut Vec<u8>) {
        if !self.plain.is_empty() {
            out.extend_from_slice(BASE64_STANDARD.encode(&self.plain).as_bytes());
            self.plain.clear();
        }
    }

    /// Append the frame that stands for the trailers.
    pub fn response_end(&mut self, trailers: &Headers, out: &mut Vec<u8>) {
        let mut block = Vec::new();
        for (_, name, value) in trailers.iter() {
            block.extend(name.iter().map(u8::to_ascii_lowercase));
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
            block.extend_from_slice(b"\r\n");
        }
        let mut frame = vec![TRAILERS];
        frame.extend_from_slice(&(block.len() as u32).to_be_bytes());
        frame.extend_from_slice(&block);
        self.response_data(&frame, out);
        self.response_pause(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(kind: &str) -> (Option<Bridge>, RequestHead) {
        let mut head = RequestHead::default();
        head.headers.push(b"Content-Type", kind.as_bytes());
        (Bridge::open(&mut head), head)
    }

    #[test]
    fn content_types_both_ways() {
        for (kind, asked, answered) in [
            ("application/grpc-web", "application/grpc", "application/grpc-web"),
            ("application/grpc-web+proto", "application/grpc+proto", "application/grpc-web+proto"),
            ("Application/GRPC-Web-Text", "application/grpc", "application/grpc-web-text"),
            ("application/grpc-web-text+proto; x", "application/grpc+proto; x", "application/grpc-web-text+proto"),
        ] {
            let (bridge, head) = open(kind);
            assert_eq!(head.headers.get(HeaderId::ContentType), Some(asked.as_bytes()), "{kind}");
            assert!(head.takes_trailers);
            let mut answer = ResponseHead::default();
            bridge.expect("is one").response_head(&mut answer);
            assert_eq!(answer.headers.get(HeaderId::ContentType), Some(answered.as_bytes()), "{kind}");
        }
        for other in ["application/grpc", "application/grpc-webx", "text/plain"] {
            assert!(open(other).0.is_none(), "{other}");
        }
    }

    #[test]
    fn trailers_are_the_last_frame() {
        let (bridge, _) = open("application/grpc-web");
        let mut trailers = Headers::default();
        trailers.push(b"Grpc-Status", b"0");
        let mut out = Vec::new();
        bridge.expect("is one").response_end(&trailers, &mut out);
        assert_eq!(out, b"\x80\0\0\0\x10grpc-status: 0\r\n");
    }

    #[test]
    fn base64_that_is_none_or_breaks_off() {
        for (text, ends) in [("@@@@", true), ("AAA", false)] {
            let mut bridge = open("application/grpc-web-text").0.expect("is one");
            let verdict = bridge.request_data(text.as_bytes(), &mut Vec::new()).and_then(|()| bridge.request_end());
            assert_eq!(verdict, Err(Reason::BadRequestFraming), "{text} {ends}");
        }
    }

    proptest! {
        #[test]
        fn text_bodies_survive_any_cut(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6), cut in 1usize..9) {
            let encoded: String = pieces.iter().map(|piece| BASE64_STANDARD.encode(piece)).collect();
            let mut bridge = open("application/grpc-web-text").0.expect("is one");
            let mut plain = Vec::new();
            for part in encoded.as_bytes().chunks(cut) {
                prop_assert_eq!(bridge.request_data(part, &mut plain), Ok(()));
            }
            prop_assert_eq!(bridge.request_end(), Ok(()));
            prop_assert_eq!(&plain, &pieces.concat());
            let mut out = Vec::new();
            for part in plain.chunks(cut) {
                bridge.response_data(part, &mut out);
            }
            bridge.response_pause(&mut out);
            prop_assert_eq!(BASE64_STANDARD.decode(&out).expect("base64"), plain);
        }
    }
}
