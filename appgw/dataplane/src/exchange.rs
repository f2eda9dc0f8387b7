//! One request and its answer: route, filters, and who answers: an endpoint, the configuration, or an error.

use std::rc::Rc;

use weirgate_shared::clock;
use weirgate_shared::reason::Reason;

use crate::answer;
use crate::carrier::Carrier;
use crate::config::{Route, RouteAction, Runtime};
use crate::connection::{Connection, Scratch};
use crate::filters::{RequestContext, ResponseContext};
use crate::forwarded::{client_behind, request_id};
use crate::http1::{self, Decoded, Decoder, Departure, has_body};
use crate::insight::{Record, write_line};
use crate::message::{Framing, HeaderId, RequestHead};

/// Serve one request whose head has been read. False = close the connection.
pub(crate) async fn handle(connection: &Connection, scratch: &mut Scratch, number: u64, start_us: u64) -> bool {
    let runtime = connection.gateway.runtime();
    let mut record = Record::new(&scratch.head);
    record.head_us = clock::process_us() - start_us;
    request_id(&mut scratch.request_id, &scratch.head, connection.trusted, connection.facts.id, number);
    if connection.trusted {
        record.client = client_behind(&scratch.head, &connection.listener.trusted_proxies);
    }
    let _in_flight = connection.gateway.begin_request();
    let keep = dispatch(connection, &runtime, scratch, &mut record, start_us).await;
    finish(connection, &runtime, scratch, &mut record, start_us);
    keep && connection.goes_on()
}

/// Answer a request whose head could not be read.
pub(crate) fn refuse(connection: &Connection, scratch: &mut Scratch, number: u64, start_us: u64, reason: Reason) {
    let runtime = connection.gateway.runtime();
    // The head may be half filled: nothing of it can be relied on.
    scratch.head.clear();
    let mut record = Record::new(&scratch.head);
    request_id(&mut scratch.request_id, &scratch.head, false, connection.facts.id, number);
    connection.unread.set(true);
    own_error(connection, scratch, &mut record, reason, None, false);
    finish(connection, &runtime, scratch, &mut record, start_us);
}

fn finish(connection: &Connection, runtime: &Runtime, scratch: &Scratch, record: &mut Record, start_us: u64) {
    record.total_us = clock::process_us() - start_us;
    let gateway = &connection.gateway;
    let route = record.route.map(|index| &runtime.routes[index]);
    if let Some(reason) = record.reason {
        gateway.totals.count_reason(reason);
    }
    route.map_or(&gateway.totals.unrouted, |route| &route.stats).count(record);
    gateway.end_request(record.total_us);
    let name = route.map_or("", |route| &route.settings.name);
    write_line(&gateway.log(), &connection.facts, &scratch.head, record, name, &scratch.request_id);
}

/// Route, filter, act.
async fn dispatch(
    connection: &Connection,
    runtime: &Rc<Runtime>,
    scratch: &mut Scratch,
    record: &mut Record,
    start_us: u64,
) -> bool {
    let source = record.client.unwrap_or(connection.facts.client.ip());
    if scratch.head.unknown_expectation {
        // Whether a body follows, only the client knows.
        scratch.head.keep_alive = false;
        return answer_error(connection, scratch, record, Reason::ExpectationFailed, None);
    }
    let Some(matched) = runtime.router.find(&scratch.head, source) else {
        return answer_error(connection, scratch, record, Reason::NoRoute, None);
    };
    record.route = Some(matched.route);
    let route = &runtime.routes[matched.route];
    let limit = route.settings.body_bytes;
    if matches!(scratch.head.framing, Framing::Length(length) if limit != 0 && length > limit) {
        return answer_error(connection, scratch, record, Reason::BodyTooLarge, None);
    }
    if !connection.trusted {
        // Before the filters, which may set such fields themselves.
        scratch.head.headers.remove_id(HeaderId::XForwardedOther);
    }
    let pool = if let RouteAction::Pool(pool) = &route.action { Some(pool) } else { None };
    let mut context = RequestContext {
        head: &mut scratch.head,
        source,
        prefix_length: matched.prefix_length,
        rates: &connection.gateway.rates,
        now_us: if route.filters.is_empty() { 0 } else { clock::monotonic_us() },
        preferred: None,
        retry_after: None,
        pool: pool.map(|pool| &pool.pool),
    };
    for filter in &route.filters {
        if let Err(reason) = filter.request(&mut context) {
            let retry_after = context.retry_after;
            return answer_error(connection, scratch, record, reason, retry_after);
        }
    }
    let preferred = context.preferred;
    match &route.action {
        RouteAction::Respond { status, headers, body } => {
            answer::respond(&mut scratch.response, *status, headers, body);
            own_answer(connection, route, scratch, record, body.as_bytes())
        }
        RouteAction::Redirect { status, location } => {
            let scheme = if connection.facts.tls { "https" } else { "http" };
            answer::redirect(&mut scratch.response, &scratch.head, *status, location, scheme);
            own_answer(connection, route, scratch, record, b"")
        }
        RouteAction::Pool(pool) => {
            let carrier = Carrier::new(connection, route, pool, preferred, start_us);
            carrier.carry(scratch, record).await
        }
    }
}

/// A configured answer.
fn own_answer(connection: &Connection, route: &Route, scratch: &mut Scratch, record: &mut Record, body: &[u8]) -> bool {
    let mut context = ResponseContext { head: &mut scratch.response, chosen: None, preferred: None };
    for filter in &route.filters {
        filter.response(&mut context);
    }
    let keep = skip_request_body(connection, &scratch.head) && scratch.head.keep_alive;
    write_own(connection, scratch, record, body, keep);
    keep
}

/// An error answer to a request whose head was good: the connection can stay open.
fn answer_error(
    connection: &Connection,
    scratch: &mut Scratch,
    record: &mut Record,
    reason: Reason,
    retry_after: Option<u64>,
) -> bool {
    let keep = skip_request_body(connection, &scratch.head) && scratch.head.keep_alive;
    own_error(connection, scratch, record, reason, retry_after, keep);
    keep
}

pub(crate) fn own_error(
    connection: &Connection,
    scratch: &mut Scratch,
    record: &mut Record,
    reason: Reason,
    retry_after: Option<u64>,
    keep: bool,
) {
    record.reason = Some(reason);
    let body = answer::error(&mut scratch.response, &scratch.head, reason, &scratch.request_id, retry_after);
    write_own(connection, scratch, record, &body, keep);
}

fn write_own(connection: &Connection, scratch: &mut Scratch, record: &mut Record, body: &[u8], keep: bool) {
    let keep = keep && connection.goes_on();
    let to_head = !scratch.head.method.is_empty() && scratch.head.method() == b"HEAD";
    let before = scratch.out.len();
    let departure = Departure { framing: scratch.response.framing, keep_alive: keep, http10: scratch.head.http10 };
    http1::response_head(&mut scratch.out, &scratch.response, departure);
    record.head_bytes = (scratch.out.len() - before) as u64;
    if has_body(to_head, scratch.response.status) {
        scratch.out.extend_from_slice(body);
    }
    record.status = scratch.response.status;
    record.bytes_out = (scratch.out.len() - before) as u64;
}

/// Take a request's body off the input when all of it is there. Otherwise the connection must close.
fn skip_request_body(connection: &Connection, head: &RequestHead) -> bool {
    let mut decoder = Decoder::new(head.framing);
    let mut input = connection.stream.input.borrow_mut();
    loop {
        match decoder.next(input.bytes()) {
            Ok(Decoded::Data { skip, length }) => input.consume(skip + length),
            Ok(Decoded::End { skip }) => {
                input.consume(skip);
                return true;
            }
            _ => {
                connection.unread.set(true);
                return false;
            }
        }
    }
}
