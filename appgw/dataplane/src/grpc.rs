//! gRPC over HTTP (the protocol's "gRPC over HTTP2" document): whose requests they are, their deadline, and their
//! status, which is another one than HTTP's.

use weirgate_shared::json::push_u64;
use weirgate_shared::reason::{Origin, Reason};

use crate::message::{Framing, HeaderId, Headers, RequestHead, ResponseHead, Span};

const PREFIX: &[u8] = b"application/grpc";
const STATUS: &[u8] = b"grpc-status";
/// Digits that a timeout may have.
const TIMEOUT_DIGITS: usize = 8;

/// Statuses that Weirgate itself gives.
pub(crate) const UNKNOWN: u32 = 2;
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
/// What a log and a metric say of a call whose status never came.
const CANCELLED: u32 = 1;

/// The content type of a call: gRPC's own, alone or with the name of a message format behind it.
pub(crate) fn content_type(head: &RequestHead) -> Option<Span> {
    if head.method() != b"POST" {
        return None;
    }
    head.headers.span(HeaderId::ContentType).filter(|span| is_grpc_type(head.bytes(*span)))
}

fn is_grpc_type(value: &[u8]) -> bool {
    let Some((start, rest)) = value.split_at_checked(PREFIX.len()) else { return false };
    start.eq_ignore_ascii_case(PREFIX) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// How long the client waits, in milliseconds, at least 1. `None` = it does not say, or not so that it could be
/// read: then there is no deadline, as gRPC's own servers have it.
pub(crate) fn timeout_ms(head: &RequestHead) -> Option<u64> {
    let value = head.headers.values(b"grpc-timeout").next()?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => amount * 3_600_000,
        b'M' => amount * 60_000,
        b'S' => amount * 1000,
        b'm' => amount.max(1),
        b'u' => amount.div_ceil(1000).max(1),
        b'n' => amount.div_ceil(1_000_000).max(1),
        _ => return None,
    })
}

/// The status that stands for a reason.
pub(crate) fn status_of(reason: Reason) -> u32 {
    match reason {
        Reason::ClientGone => CANCELLED,
        Reason::ResponseTimeout | Reason::BodyTimeout | Reason::TotalTimeout | Reason::RequestTimeout => {
            DEADLINE_EXCEEDED
        }
        Reason::NoRoute | Reason::MethodNotSupported => UNIMPLEMENTED,
        Reason::BodyTooLarge | Reason::HeaderTooLarge | Reason::RateLimited | Reason::QueueFull => RESOURCE_EXHAUSTED,
        Reason::UpstreamBadResponse | Reason::UpstreamHeaderTooLarge => INTERNAL,
        _ => match reason.origin() {
            Origin::Downstream => INVALID_ARGUMENT,
            Origin::Upstream | Origin::Overload | Origin::Config => UNAVAILABLE,
            Origin::Internal if reason == Reason::Draining => UNAVAILABLE,
            Origin::Internal => UNKNOWN,
        },
    }
}

/// The status that fields tell: trailers, or the head of an answer that has nothing else.
pub(crate) fn status_in(fields: &Headers) -> Option<u32> {
    std::str::from_utf8(fields.values(STATUS).next()?).ok()?.parse().ok()
}

/// Fill `fields` with what tells of a failure.
pub(crate) fn push_failure(fields: &mut Headers, reason: Reason) {
    let mut status = Vec::new();
    push_u64(&mut status, u64::from(status_of(reason)));
    fields.push(STATUS, &status);
    // ASCII without `%`: nothing to encode.
    fields.push(b"grpc-message", [reason.code(), ": ", reason.text()].concat().as_bytes());
}

/// An error answer to a call with this content type: the head alone says everything.
pub(crate) fn error(head: &mut ResponseHead, content_type: &[u8], reason: Reason, request_id: &[u8]) {
    head.clear();
    head.status = 200;
    head.headers.push(b"Content-Type", content_type);
    push_failure(&mut head.headers, reason);
    head.headers.push(b"weirgate-reason", reason.code().as_bytes());
    if !request_id.is_empty() {
        head.headers.push(b"X-Request-Id", request_id);
    }
    head.framing = Framing::Length(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(content_type: &str, timeout: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.method = head.headers.store(b"POST");
        head.headers.push(b"content-type", content_type.as_bytes());
        head.headers.push(b"grpc-timeout", timeout.as_bytes());
        head
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (kind, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;x=y", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("app", false),
        ] {
            assert_eq!(content_type(&call(kind, "")).is_some(), wanted, "{kind}");
        }
    }

    #[test]
    fn timeouts_of_every_unit_and_none_that_is_malformed() {
        for (text, wanted) in [
            ("2H", Some(7_200_000)),
            ("3M", Some(180_000)),
            ("4S", Some(4000)),
            ("5m", Some(5)),
            ("1500u", Some(2)),
            ("1n", Some(1)),
            ("0m", Some(1)),
            ("99999999H", Some(99_999_999 * 3_600_000)),
            ("123456789m", None),
            ("5", None),
            ("m", None),
            ("-1m", None),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(timeout_ms(&call("application/grpc", text)), wanted, "{text}");
        }
    }

    #[test]
    fn every_reason_has_a_status_that_is_no_success() {
        for &reason in Reason::ALL {
            assert!((1..=16).contains(&status_of(reason)), "{reason:?}");
        }
        let mut fields = Headers::default();
        push_failure(&mut fields, Reason::TotalTimeout);
        assert_eq!(status_in(&fields), Some(DEADLINE_EXCEEDED));
    }
}
