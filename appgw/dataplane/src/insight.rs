//! What a gateway tells about itself: metrics, status, and one log line per request.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use rustc_hash::FxHashMap;
use weirgate_shared::access_log::{AccessLog, Format, push_number_field, push_text_field};
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::endpoint::Endpoint;
use weirgate_shared::json::push_u64;
use weirgate_shared::metrics::{Counter, Families, Histogram, Kind};
use weirgate_shared::reason::Reason;

use crate::client_certificate::ClientCertificate;
use crate::grpc;
use crate::message::{HeaderId, RequestHead, Span};
use crate::upstream::UpstreamStats;

/// Counts of one route, kept across reloads.
#[derive(Default)]
pub(crate) struct RouteStats {
    statuses: RefCell<Vec<(u16, u64)>>,
    grpc_statuses: RefCell<Vec<(u32, u64)>>,
    duration: Histogram,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// Counts of the whole gateway.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) requests: Counter,
    pub(crate) unrouted: RouteStats,
    pub(crate) reasons: RefCell<FxHashMap<&'static str, u64>>,
    pub(crate) tls_handshakes: Counter,
    pub(crate) tls_resumed: Counter,
    pub(crate) tls_failures: Counter,
    pub(crate) upgrades: Counter,
    /// Upgraded connections that are open.
    upgraded: Cell<u64>,
    pub(crate) upstream: UpstreamStats,
    /// Smoothed time to answer, µs: what the load page shows.
    pub(crate) latency_us: Cell<u64>,
}

impl Totals {
    /// Count an end that Weirgate itself caused or saw.
    pub(crate) fn count_reason(&self, reason: Reason) {
        *self.reasons.borrow_mut().entry(reason.code()).or_insert(0) += 1;
    }

    /// Count an upgraded connection for as long as the guard lives.
    pub(crate) fn upgraded(&self) -> Upgraded<'_> {
        self.upgrades.add_one();
        self.upgraded.set(self.upgraded.get() + 1);
        Upgraded(&self.upgraded)
    }

    /// Upgraded connections that are open.
    pub(crate) fn upgrades_open(&self) -> u64 {
        self.upgraded.get()
    }
}

/// An upgraded connection, counted.
pub(crate) struct Upgraded<'a>(&'a Cell<u64>);

impl Drop for Upgraded<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Everything that is told of one request.
pub(crate) struct Record {
    /// The path before any filter changed it.
    pub(crate) path: Span,
    pub(crate) authority: Span,
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    /// It is a gRPC call: the content type that the client gave it.
    pub(crate) grpc: Option<Span>,
    /// The call's status, once it has come or was given.
    pub(crate) grpc_status: Option<u32>,
    /// The route's position in the snapshot that carried the request.
    pub(crate) route: Option<usize>,
    pub(crate) endpoint: Option<Rc<Endpoint>>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Bytes of `bytes_out` that are the response's head.
    pub(crate) head_bytes: u64,
    /// The client behind a trusted proxy.
    pub(crate) client: Option<IpAddr>,
    pub(crate) head_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) connect_us: u64,
    pub(crate) first_byte_us: u64,
    pub(crate) total_us: u64,
    pub(crate) retries: u32,
}

impl Record {
    pub(crate) fn new(head: &RequestHead) -> Self {
        Self {
            path: head.path,
            authority: head.authority,
            status: 0,
            reason: None,
            grpc: grpc::content_type(head),
            grpc_status: None,
            route: None,
            endpoint: None,
            bytes_in: 0,
            bytes_out: 0,
            head_bytes: 0,
            client: None,
            head_us: 0,
            queue_us: 0,
            connect_us: 0,
            first_byte_us: 0,
            total_us: 0,
            retries: 0,
        }
    }
}

impl Record {
    /// The status that is told of a gRPC call: its own, or that of what went wrong.
    fn told_grpc_status(&self) -> Option<u32> {
        let failed = || self.reason.map_or(grpc::UNKNOWN, grpc::status_of);
        self.grpc.map(|_| self.grpc_status.unwrap_or_else(failed))
    }
}

/// What a log line says of the connection.
pub(crate) struct ConnectionFacts {
    pub(crate) id: ConnectionId,
    pub(crate) client: SocketAddr,
    pub(crate) client_text: String,
    pub(crate) listener: String,
    pub(crate) tls: bool,
    /// What the client has shown of itself, verified.
    pub(crate) certificate: Option<Rc<ClientCertificate>>,
    pub(crate) accept_to_gateway_us: u64,
    pub(crate) tls_us: u64,
}

/// Write a request's log line.
pub(crate) fn write_line(
    log: &AccessLog,
    facts: &ConnectionFacts,
    head: &RequestHead,
    record: &Record,
    route: &str,
    request_id: &[u8],
) {
    log.line(|out| match log.format() {
        Format::Json => json_line(out, log, facts, head, record, route, request_id),
        Format::Combined => combined_line(out, log, facts, head, record),
    });
}

fn json_line(
    out: &mut Vec<u8>,
    log: &AccessLog,
    facts: &ConnectionFacts,
    head: &RequestHead,
    record: &Record,
    route: &str,
    request_id: &[u8],
) {
    out.extend_from_slice(b"{\"time\":\"");
    log.push_time(out, Format::Json);
    out.push(b'"');
    push_text_field(out, "connection_id", &facts.id.hex());
    push_text_field(out, "request_id", request_id);
    push_text_field(out, "listener", facts.listener.as_bytes());
    match record.client {
        Some(client) => push_text_field(out, "client", client.to_string().as_bytes()),
        None => push_text_field(out, "client", facts.client_text.as_bytes()),
    }
    push_text_field(out, "method", head.method());
    push_text_field(out, "host", head.bytes(record.authority));
    push_text_field(out, "path", head.bytes(record.path));
    push_text_field(out, "query", head.query().unwrap_or_default());
    push_text_field(out, "protocol", head.version.name().as_bytes());
    out.extend_from_slice(if facts.tls { b",\"tls\":true" } else { b",\"tls\":false" });
    if let Some(certificate) = &facts.certificate {
        push_text_field(out, "client_certificate", certificate.subject.as_bytes());
        push_text_field(out, "client_fingerprint", certificate.fingerprint.as_bytes());
    }
    push_number_field(out, "status", u64::from(record.status));
    if let Some(status) = record.told_grpc_status() {
        push_number_field(out, "grpc_status", u64::from(status));
    }
    push_text_field(out, "reason", record.reason.map_or("", Reason::code).as_bytes());
    push_text_field(out, "route", route.as_bytes());
    let endpoint = record.endpoint.as_deref();
    push_text_field(out, "pool", endpoint.map_or("", |endpoint| &endpoint.pool).as_bytes());
    push_text_field(out, "endpoint", endpoint.map_or("", |endpoint| &endpoint.address).as_bytes());
    push_number_field(out, "bytes_in", record.bytes_in);
    push_number_field(out, "bytes_out", record.bytes_out);
    push_number_field(out, "accept_to_gateway_us", facts.accept_to_gateway_us);
    push_number_field(out, "tls_us", facts.tls_us);
    push_number_field(out, "head_us", record.head_us);
    push_number_field(out, "queue_us", record.queue_us);
    push_number_field(out, "connect_us", record.connect_us);
    push_number_field(out, "first_byte_us", record.first_byte_us);
    push_number_field(out, "total_us", record.total_us);
    push_number_field(out, "retries", u64::from(record.retries));
    push_text_field(out, "user_agent", head.headers.get(HeaderId::UserAgent).unwrap_or_default());
    out.push(b'}');
}

fn combined_line(out: &mut Vec<u8>, log: &AccessLog, facts: &ConnectionFacts, head: &RequestHead, record: &Record) {
    // Whatever could end the line or the quotes is written as \xHH, as Apache does.
    let clean = |out: &mut Vec<u8>, text: &[u8]| {
        for &byte in text {
            if (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\' {
                out.push(byte);
            } else {
                out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
        }
    };
    let client = record.client.unwrap_or(facts.client.ip());
    out.extend_from_slice(client.to_string().as_bytes());
    out.extend_from_slice(b" - - [");
    log.push_time(out, Format::Combined);
    out.extend_from_slice(b"] \"");
    clean(out, head.method());
    out.push(b' ');
    clean(out, head.bytes(record.path));
    if let Some(query) = head.query() {
        out.push(b'?');
        clean(out, query);
    }
    out.push(b' ');
    out.extend_from_slice(head.version.name().as_bytes());
    out.extend_from_slice(b"\" ");
    push_u64(out, u64::from(record.status));
    out.push(b' ');
    push_u64(out, record.bytes_out.saturating_sub(record.head_bytes));
    out.extend_from_slice(b" \"");
    clean(out, head.headers.values(b"referer").next().unwrap_or(b"-"));
    out.extend_from_slice(b"\" \"");
    clean(out, head.headers.get(HeaderId::UserAgent).unwrap_or(b"-"));
    out.push(b'"');
}

/// The highest status that has a label of its own; gRPC knows 0 to 16.
const GRPC_STATUS_LIMIT: u32 = 17;

fn add_one<K: PartialEq>(counts: &RefCell<Vec<(K, u64)>>, key: K) {
    let mut counts = counts.borrow_mut();
    match counts.iter_mut().find(|(known, _)| *known == key) {
        Some((_, count)) => *count += 1,
        None => counts.push((key, 1)),
    }
}

fn counts_by<K: ToString + Copy>(counts: &RefCell<Vec<(K, u64)>>) -> Vec<(String, u64)> {
    counts.borrow().iter().map(|(key, count)| (key.to_string(), *count)).collect()
}

impl RouteStats {
    /// Count one finished request.
    pub(crate) fn count(&self, record: &Record) {
        add_one(&self.statuses, record.status);
        if let Some(status) = record.told_grpc_status() {
            // Whatever an endpoint makes up is one more label.
            add_one(&self.grpc_statuses, status.min(GRPC_STATUS_LIMIT));
        }
        self.duration.record(record.total_us);
        self.bytes_in.add(record.bytes_in);
        self.bytes_out.add(record.bytes_out);
    }
}

/// What [`metrics`] needs besides the totals.
pub(crate) struct Gauges<'a> {
    pub(crate) process: &'a str,
    pub(crate) connections: u64,
    pub(crate) in_flight: u64,
    pub(crate) log_lost: u64,
}

/// All metric families of a gateway.
pub(crate) fn metrics<'a>(
    totals: &'a Totals,
    routes: &[(&'a str, &'a RouteStats)],
    endpoints: &[&'a Endpoint],
    gauges: &Gauges<'a>,
) -> Vec<u8> {
    let mut families = Families::default();
    let all: Vec<(&str, &RouteStats)> = routes.iter().copied().chain([("", &totals.unrouted)]).collect();
    let seen = || all.iter().filter(|(_, stats)| stats.duration.count() > 0);
    let labelled = |counts: fn(&RouteStats) -> Vec<(String, u64)>| -> Vec<(&str, String, u64)> {
        seen().flat_map(|(route, stats)| counts(stats).into_iter().map(|(key, n)| (*route, key, n))).collect()
    };
    let statuses = labelled(|stats| counts_by(&stats.statuses));
    families.numbers(
        "weirgate_requests_total",
        Kind::Counter,
        "Requests answered, by route and status (0 = the client had gone).",
        statuses.iter().map(|(route, status, count)| (vec![("route", *route), ("status", status.as_str())], *count)),
    );
    let statuses = labelled(|stats| counts_by(&stats.grpc_statuses));
    families.numbers(
        "weirgate_grpc_requests_total",
        Kind::Counter,
        "gRPC calls, by route and status (17 = none that gRPC knows).",
        statuses.iter().map(|(route, status, n)| (vec![("route", *route), ("grpc_status", status.as_str())], *n)),
    );
    families.histograms(
        "weirgate_request_duration_seconds",
        "From the first byte of a request to the last of its response.",
        seen().map(|(route, stats)| (vec![("route", *route)], &stats.duration)),
    );
    let by_route = |value: fn(&RouteStats) -> u64| {
        seen().map(move |(route, stats)| (vec![("route", *route)], value(stats))).collect::<Vec<_>>()
    };
    families.numbers(
        "weirgate_request_bytes_total",
        Kind::Counter,
        "Bytes of request bodies.",
        by_route(|s| s.bytes_in.value()),
    );
    families.numbers(
        "weirgate_response_bytes_total",
        Kind::Counter,
        "Bytes of responses.",
        by_route(|s| s.bytes_out.value()),
    );
    let reasons: Vec<(&'static str, u64)> =
        totals.reasons.borrow().iter().map(|(code, count)| (*code, *count)).collect();
    families.numbers(
        "weirgate_reasons_total",
        Kind::Counter,
        "Ends that Weirgate itself caused or saw, by reason (docs/reasons.md).",
        reasons.iter().map(|(code, count)| (vec![("reason", *code)], *count)),
    );
    let labels =
        |endpoint: &'a Endpoint| vec![("pool", endpoint.pool.as_str()), ("endpoint", endpoint.address.as_str())];
    let mut by_endpoint = |name: &str, kind: Kind, help: &str, value: fn(&Endpoint) -> u64| {
        families.numbers(name, kind, help, endpoints.iter().map(|endpoint| (labels(endpoint), value(endpoint))));
    };
    by_endpoint("weirgate_endpoint_requests_total", Kind::Counter, "Requests given to an endpoint.", |e| {
        e.requests_total.value()
    });
    by_endpoint("weirgate_endpoint_requests_in_flight", Kind::Gauge, "Requests on an endpoint now.", |e| {
        u64::from(e.in_flight.get())
    });
    by_endpoint("weirgate_endpoint_connections", Kind::Gauge, "Open connections to an endpoint.", |e| {
        u64::from(e.connections.get())
    });
    by_endpoint(
        "weirgate_endpoint_connect_failures_total",
        Kind::Counter,
        "Connects to an endpoint that failed.",
        |e| e.connect_failures.value(),
    );
    let mut single =
        |name: &str, kind: Kind, help: &str, value: u64| families.numbers(name, kind, help, [(vec![], value)]);
    single("weirgate_gateway_connections", Kind::Gauge, "Open client connections.", gauges.connections);
    single("weirgate_gateway_requests_in_flight", Kind::Gauge, "Requests being worked on.", gauges.in_flight);
    single("weirgate_tls_handshakes_total", Kind::Counter, "TLS handshakes completed.", totals.tls_handshakes.value());
    single(
        "weirgate_tls_resumed_total",
        Kind::Counter,
        "TLS handshakes that resumed a session.",
        totals.tls_resumed.value(),
    );
    single(
        "weirgate_tls_handshake_failures_total",
        Kind::Counter,
        "TLS handshakes that failed, those for the client's certificate among them.",
        totals.tls_failures.value(),
    );
    single("weirgate_upgrades_total", Kind::Counter, "Connections upgraded (WebSocket).", totals.upgrades.value());
    single("weirgate_upgraded_connections", Kind::Gauge, "Upgraded connections now.", totals.upgrades_open());
    single(
        "weirgate_upstream_connections_opened_total",
        Kind::Counter,
        "Connections opened to endpoints.",
        totals.upstream.opened.value(),
    );
    single(
        "weirgate_upstream_connections_reused_total",
        Kind::Counter,
        "Requests sent on a kept connection.",
        totals.upstream.reused.value(),
    );
    single("weirgate_upstream_retries_total", Kind::Counter, "Requests tried again.", totals.upstream.retries.value());
    single(
        "weirgate_upstream_queued_total",
        Kind::Counter,
        "Requests that waited for a place at an endpoint.",
        totals.upstream.queued.value(),
    );
    families.numbers(
        "weirgate_access_log_lost_total",
        Kind::Counter,
        "Access log lines lost because the log could not keep up or be written.",
        [(vec![("process", gauges.process)], gauges.log_lost)],
    );
    families.into_json()
}
