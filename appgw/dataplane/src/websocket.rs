//! What a WebSocket handshake needs when its two sides speak different HTTP (RFC 6455 §4, RFC 8441 §5).
//!
//! Over HTTP/1.1 a key goes forth and its digest comes back; over HTTP/2 there is neither. A request
//! without a key gets one for its endpoint; an answer without a digest gets one for its client.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use weirgate_shared::reason::Reason;

use crate::message::{RequestHead, ResponseHead};

const KEY: &[u8] = b"sec-websocket-key";
const ACCEPT: &[u8] = b"sec-websocket-accept";
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn asks(head: &RequestHead) -> bool {
    head.upgrade.is_some_and(|protocol| head.bytes(protocol).eq_ignore_ascii_case(b"websocket"))
}

/// Give a WebSocket request the key that HTTP/1.1 wants. Says whether it had none.
pub(crate) fn ensure_key(head: &mut RequestHead) -> bool {
    if !asks(head) || head.headers.values(KEY).next().is_some() {
        return false;
    }
    let mut nonce = [0; 16];
    if rand::fill(&mut nonce).is_err() {
        return false;
    }
    head.headers.push(KEY, BASE64_STANDARD.encode(nonce).as_bytes());
    true
}

/// Make an answer that accepts the upgrade into what the client expects; `ours` = the key was, `proves` = the
/// endpoint must show its digest.
///
/// Errors: `upstream_bad_response` when the digest does not belong to the key that we made.
pub(crate) fn complete(
    head: &RequestHead,
    response: &mut ResponseHead,
    ours: bool,
    proves: bool,
) -> Result<(), Reason> {
    if !asks(head) {
        return Ok(());
    }
    let Some(key) = head.headers.values(KEY).next() else { return Ok(()) };
    let wanted = accept(key);
    let given = response.headers.values(ACCEPT).next();
    if ours && given.map_or(proves, |given| given != wanted.as_bytes()) {
        return Err(Reason::UpstreamBadResponse);
    }
    if ours {
        response.headers.remove(ACCEPT);
    } else if given.is_none() {
        response.headers.push(b"Sec-WebSocket-Accept", wanted.as_bytes());
    }
    Ok(())
}

fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    BASE64_STANDARD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: Option<&str>) -> RequestHead {
        let mut head = RequestHead::default();
        head.upgrade = Some(head.headers.store(b"websocket"));
        if let Some(key) = key {
            head.headers.push(b"Sec-WebSocket-Key", key.as_bytes());
        }
        head
    }

    #[test]
    fn the_digest_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_client_with_a_key_gets_its_digest_and_one_without_gets_none() {
        let mut with_key = request(Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!ensure_key(&mut with_key));
        let mut response = ResponseHead::default();
        assert_eq!(complete(&with_key, &mut response, false, false), Ok(()));
        assert_eq!(response.headers.values(ACCEPT).next(), Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..]));

        let mut without = request(None);
        assert!(ensure_key(&mut without));
        let key = without.headers.values(KEY).next().expect("made").to_vec();
        let mut response = ResponseHead::default();
        response.headers.push(ACCEPT, accept(&key).as_bytes());
        assert_eq!(complete(&without, &mut response, true, true), Ok(()));
        assert!(response.headers.is_empty());
        assert_eq!(complete(&without, &mut response, true, false), Ok(()));
        assert_eq!(complete(&without, &mut response, true, true), Err(Reason::UpstreamBadResponse));
        response.headers.push(ACCEPT, b"another");
        assert_eq!(complete(&without, &mut response, true, false), Err(Reason::UpstreamBadResponse));
    }

    #[test]
    fn other_upgrades_are_left_alone() {
        let mut head = RequestHead::default();
        head.upgrade = Some(head.headers.store(b"other"));
        assert!(!ensure_key(&mut head) && head.headers.is_empty());
    }
}
