//! One request and its answer: route, filters, and who answers: an endpoint, the configuration, or an error.

use std::rc::Rc;

use weirgate_shared::clock;
use weirgate_shared::reason::Reason;

use crate::answer;
use crate::carrier::{Bound, Carrier};
use crate::client::Client;
use crate::config::{Route, RouteAction, Runtime};
use crate::downstream::Downstream;
use crate::filters::{RequestContext, ResponseContext};
use crate::forwarded::{client_behind, remove_hearsay, request_id};
use crate::grpc;
use crate::http1::{Departure, has_body};
use crate::insight::{Record, write_line};
use crate::message::{Framing, HeaderId, RequestHead, ResponseHead, Version};
use crate::routing::Caller;

/// Buffers of one exchange, lent by the gateway while there is one.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) head: RequestHead,
    pub(crate) response: ResponseHead,
    /// What goes to the client.
    pub(crate) out: Vec<u8>,
    /// What goes to the endpoint.
    pub(crate) wire: Vec<u8>,
    /// A request's body that was here as a whole.
    pub(crate) body: Vec<u8>,
    /// Field lines that the endpoint is sent besides the client's.
    pub(crate) extra: Vec<u8>,
    pub(crate) request_id: Vec<u8>,
}

/// Serve one request whose head has been read. False = close the connection.
pub(crate) async fn handle(down: &impl Downstream, scratch: &mut Scratch, number: u64, start_us: u64) -> bool {
    let client = down.client();
    let runtime = client.gateway.runtime();
    let mut record = Record::new(&scratch.head);
    record.head_us = clock::process_us() - start_us;
    request_id(&mut scratch.request_id, &scratch.head, client.trusted, client.facts.id, number);
    if client.trusted {
        record.client = client_behind(&scratch.head, &client.listener.trusted_proxies);
    }
    let _in_flight = client.gateway.begin_request();
    let keep = dispatch(down, &runtime, scratch, &mut record, start_us).await;
    finish(client, &runtime, scratch, &mut record, start_us);
    // What the answer's head has said: a drain that began since is told with the next one.
    keep
}

/// Answer a request whose head could not be read.
pub(crate) fn refuse(down: &impl Downstream, scratch: &mut Scratch, number: u64, start_us: u64, reason: Reason) {
    let client = down.client();
    let runtime = client.gateway.runtime();
    // The head may be half filled: nothing of it can be relied on.
    let version = scratch.head.version;
    scratch.head.clear();
    scratch.head.version = version;
    let mut record = Record::new(&scratch.head);
    request_id(&mut scratch.request_id, &scratch.head, false, client.facts.id, number);
    down.leave_body();
    own_error(down, scratch, &mut record, reason, None, false);
    finish(client, &runtime, scratch, &mut record, start_us);
}

fn finish(client: &Client, runtime: &Runtime, scratch: &Scratch, record: &mut Record, start_us: u64) {
    record.total_us = clock::process_us() - start_us;
    let gateway = &client.gateway;
    let route = record.route.map(|index| &runtime.routes[index]);
    if let Some(reason) = record.reason {
        gateway.totals.count_reason(reason);
    }
    route.map_or(&gateway.totals.unrouted, |route| &route.stats).count(record);
    gateway.end_request(record.total_us);
    let name = route.map_or("", |route| &route.settings.name);
    write_line(&gateway.log(), &client.facts, &scratch.head, record, name, &scratch.request_id);
}

/// Route, filter, act.
async fn dispatch(
    down: &impl Downstream,
    runtime: &Rc<Runtime>,
    scratch: &mut Scratch,
    record: &mut Record,
    start_us: u64,
) -> bool {
    let client = down.client();
    let source = record.client.unwrap_or(client.facts.client.ip());
    let certificate = client.facts.certificate.as_deref();
    if scratch.head.unknown_expectation {
        // Whether a body follows, only the client knows.
        scratch.head.keep_alive = false;
        return answer_error(down, scratch, record, Reason::ExpectationFailed, None);
    }
    let known = !runtime.router.tells_listeners() || client.is_served();
    let caller = Caller { source, listener: known.then_some(&client.facts.listener), certificate };
    let Some(matched) = runtime.router.find(&scratch.head, &caller) else {
        return answer_error(down, scratch, record, Reason::NoRoute, None);
    };
    record.route = Some(matched.route);
    let route = &runtime.routes[matched.route];
    let limit = route.settings.body_bytes;
    if matches!(scratch.head.framing, Framing::Length(length) if limit != 0 && length > limit) {
        return answer_error(down, scratch, record, Reason::BodyTooLarge, None);
    }
    remove_hearsay(&mut scratch.head, client.trusted, certificate);
    let pool = if let RouteAction::Pool(pool) = &route.action { Some(pool) } else { None };
    let mut context = RequestContext {
        head: &mut scratch.head,
        source,
        prefix_length: matched.prefix_length,
        rates: &client.gateway.rates,
        now_us: if route.filters.is_empty() { 0 } else { clock::monotonic_us() },
        preferred: None,
        retry_after: None,
        pool: pool.map(|pool| &pool.pool),
        bridge: None,
    };
    let content_type = context.head.headers.span(HeaderId::ContentType);
    for filter in &route.filters {
        if let Err(reason) = filter.request(&mut context) {
            let retry_after = context.retry_after;
            return answer_error(down, scratch, record, reason, retry_after);
        }
    }
    let preferred = context.preferred;
    let bridge = context.bridge;
    if bridge.is_some() {
        record.grpc = content_type;
    }
    match &route.action {
        RouteAction::Respond { status, headers, body } => {
            answer::respond(&mut scratch.response, *status, headers, body);
            own_answer(down, route, scratch, record, body.as_bytes())
        }
        RouteAction::Redirect { status, location } => {
            let scheme = if client.facts.tls { "https" } else { "http" };
            answer::redirect(&mut scratch.response, &scratch.head, *status, location, scheme);
            own_answer(down, route, scratch, record, b"")
        }
        RouteAction::Pool(pool) => {
            let carrier = Carrier::new(down, route, pool, &scratch.head, Bound { preferred, bridge, start_us });
            carrier.carry(scratch, record).await
        }
    }
}

/// A configured answer.
fn own_answer(down: &impl Downstream, route: &Route, scratch: &mut Scratch, record: &mut Record, body: &[u8]) -> bool {
    let mut context = ResponseContext { head: &mut scratch.response, chosen: None, preferred: None };
    for filter in &route.filters {
        filter.response(&mut context);
    }
    if is_mistakable(down, scratch) {
        return answer_error(down, scratch, record, Reason::ProtocolNotSupported, None);
    }
    let keep = down.skip_body(&scratch.head);
    write_own(down, scratch, record, body, keep)
}

/// Whether the client would take the answer for an accepted upgrade.
fn is_mistakable<D: Downstream>(_down: &D, scratch: &Scratch) -> bool {
    scratch.head.upgrade.is_some() && scratch.response.status / 100 == D::UPGRADED / 100
}

/// An error answer to a request whose head was good: the connection can stay open.
fn answer_error(
    down: &impl Downstream,
    scratch: &mut Scratch,
    record: &mut Record,
    reason: Reason,
    retry_after: Option<u64>,
) -> bool {
    let keep = down.skip_body(&scratch.head);
    own_error(down, scratch, record, reason, retry_after, keep)
}

/// Write an error of the gateway's own; says whether the connection stays open, as the head has it.
pub(crate) fn own_error(
    down: &impl Downstream,
    scratch: &mut Scratch,
    record: &mut Record,
    reason: Reason,
    retry_after: Option<u64>,
    keep: bool,
) -> bool {
    record.reason = Some(reason);
    let body = if let Some(content_type) = record.grpc {
        let content_type = scratch.head.bytes(content_type);
        record.grpc_status = Some(grpc::status_of(reason));
        grpc::error(&mut scratch.response, content_type, reason, &scratch.request_id);
        Vec::new()
    } else {
        answer::error(&mut scratch.response, &scratch.head, reason, &scratch.request_id, retry_after)
    };
    write_own(down, scratch, record, &body, keep)
}

fn write_own(down: &impl Downstream, scratch: &mut Scratch, record: &mut Record, body: &[u8], keep: bool) -> bool {
    let keep = keep && down.client().goes_on();
    let to_head = !scratch.head.method.is_empty() && scratch.head.method() == b"HEAD";
    let before = scratch.out.len();
    let framing = scratch.response.framing;
    let departure = Departure { framing, keep_alive: keep, http10: scratch.head.version == Version::Http10 };
    let body = if has_body(to_head, scratch.response.status) { body } else { b"" };
    down.head(&mut scratch.out, &scratch.response, departure, body.is_empty());
    record.head_bytes = (scratch.out.len() - before) as u64;
    if !body.is_empty() {
        down.data(&mut scratch.out, body, framing);
        down.end(&mut scratch.out, None, framing);
    }
    record.status = scratch.response.status;
    record.bytes_out = (scratch.out.len() - before) as u64;
    keep
}
