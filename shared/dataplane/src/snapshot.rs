//! The compiled configuration as the data planes read it (docs/contracts.md §1).
//!
//! Python has validated everything that it can; what only Rust can judge (regular expressions,
//! certificates) is judged by each tier when it builds its run-time form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The `format` this build reads.
pub const FORMAT: u32 = 1;

/// A snapshot that cannot be used; nothing in force is changed by it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes are not a snapshot.
    #[error("not a snapshot: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("snapshot format {0}, wanted {FORMAT}: both sides must be of one version")]
    Format(u32),
    /// A value only the data plane can judge; `path` leads to it, such as `routes.3.match.paths.0.value`.
    #[error("{path}: {message}")]
    Value {
        /// Where in the snapshot.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl SnapshotError {
    /// A wrong value at `path`.
    #[allow(clippy::needless_pass_by_value)] // an error that is passed on is done with
    pub fn value(path: impl Into<String>, message: impl ToString) -> Self {
        Self::Value { path: path.into(), message: message.to_string() }
    }
}

/// One compiled configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// See [`FORMAT`].
    pub format: u32,
    /// What the edge accepts on.
    pub listeners: Vec<Listener>,
    /// Named sets of endpoints.
    pub pools: Vec<Pool>,
    /// First match wins.
    pub routes: Vec<Route>,
    /// Limits and timeouts of the gateways.
    pub gateway: Gateway,
    /// Where logs go.
    pub logs: Logs,
}

impl Snapshot {
    /// Read snapshot bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot: Self = serde_json::from_slice(bytes)?;
        if snapshot.format == FORMAT { Ok(snapshot) } else { Err(SnapshotError::Format(snapshot.format)) }
    }

    /// The same with every secret blanked, as JSON: what control APIs may show.
    #[must_use]
    pub fn redacted(&self) -> Vec<u8> {
        let mut copy = self.clone();
        copy.gateway.cookie_secret = "(secret)".into();
        for listener in &mut copy.listeners {
            for certificate in listener.tls.iter_mut().flat_map(|tls| &mut tls.certificates) {
                certificate.key_pem = "(secret)".into();
            }
        }
        for pool in &mut copy.pools {
            if let Some(certificate) = pool.tls.as_mut().and_then(|tls| tls.certificate.as_mut()) {
                certificate.key_pem = "(secret)".into();
            }
        }
        serde_json::to_vec(&copy).unwrap_or_default()
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Handed to a gateway.
    Http,
    /// Relayed by the edge itself.
    Tcp,
    /// Relayed by the edge itself, datagram by datagram.
    Udp,
    /// Relayed by the edge, or handed to a gateway, by the name in the client hello.
    Tls,
}

/// An address the edge accepts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the names are the configuration's own; docs/config-reference.md explains each
pub struct Listener {
    pub name: String,
    pub bind: Vec<String>,
    pub protocol: Protocol,
    pub pool: Option<String>,
    pub server_names: Option<ServerNames>,
    pub tls: Option<ListenerTls>,
    pub accept_proxy_from: Vec<String>,
    pub trusted_proxies: Vec<String>,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub connections_per_source: u32,
    pub max_connections: u32,
    pub hello_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub max_sessions: u32,
    pub responses: u32,
    /// Its peers are edges: their PROXY headers name the connection's id and the listener that it came in by.
    #[serde(default)]
    pub from_edges: bool,
    #[serde(default)]
    pub new_connections: Option<Rate>,
    #[serde(default)]
    pub new_connections_per_source: Option<Rate>,
    #[serde(default)]
    pub datagrams_per_source: Option<Rate>,
    #[serde(default)]
    pub bytes_in_per_source: Option<ByteRate>,
    #[serde(default)]
    pub bytes_out_per_source: Option<ByteRate>,
    #[serde(default)]
    pub source_prefix: SourcePrefix,
    /// Read by the supervisor only: it binds the sockets.
    #[serde(default)]
    pub socket: Option<serde_json::Value>,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// On average.
    pub per_second: f64,
    /// At once after a pause.
    pub burst: u32,
}

/// How many bytes may pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByteRate {
    /// On average.
    pub per_second: f64,
    /// At once after a pause; at least the largest datagram.
    pub burst_bytes: u64,
}

/// How many leading bits of an address make a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SourcePrefix {
    pub ipv4: u32,
    pub ipv6: u32,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

/// Where the connections of a `tls` listener go, by SNI: exact names and `*.` wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ServerNames {
    pub pools: BTreeMap<String, String>,
    pub terminate: Vec<String>,
    pub default: DefaultTarget,
}

impl ServerNames {
    /// Whether any connection goes to the gateways.
    #[must_use]
    pub fn terminates(&self) -> bool {
        !self.terminate.is_empty() || self.default == DefaultTarget::Terminate
    }
}

/// What becomes of a name that nothing else is said of, and of none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum DefaultTarget {
    Pool { pool: String },
    Refuse,
    Terminate,
}

/// TLS termination on a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ListenerTls {
    pub certificates: Vec<Certificate>,
    pub minimum_version: String,
    pub alpn: Vec<String>,
    #[serde(default)]
    pub client: Option<ClientAuth>,
}

/// A certificate chain and its key, as PEM text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Certificate {
    pub certificate_pem: String,
    pub key_pem: String,
    /// The OCSP response to staple: DER in base64.
    #[serde(default)]
    pub ocsp: Option<String>,
    /// Which entry of the configuration it comes from: a directory is one entry.
    #[serde(default)]
    pub entry: usize,
    /// Its file, for messages, where the entry does not name it.
    #[serde(default)]
    pub file: Option<String>,
}

/// Whose certificates clients must or may show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClientAuth {
    pub ca_pem: String,
    pub mode: ClientAuthMode,
    #[serde(default)]
    pub crl_pem: Vec<String>,
}

/// What becomes of a client without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// It is served; routes can tell.
    Request,
    /// It is refused.
    Require,
}

/// How a pool chooses an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The less loaded of two sampled by weight.
    LeastRequest,
    /// The least loaded of all.
    LeastConnections,
    /// The less loaded of two sampled by weight, by what the endpoints themselves report.
    LeastLoad,
    /// By weight alone.
    Random,
    /// By a hash of the client.
    Maglev(Maglev),
}

/// What the hash is made of, and how far load may stand back behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Maglev {
    pub key: KeyKind,
    pub ipv4_prefix: u32,
    pub ipv6_prefix: u32,
    pub max_load_percent: u32,
}

/// What of the client makes the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The prefix of its address.
    Source,
    /// That and its port.
    SourcePort,
}

/// When failures take an endpoint out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Eject {
    pub max_percent: u32,
    pub early_close_ms: u64,
}

/// The PROXY header that an endpoint is sent in front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// The line of text.
    V1,
    /// The binary header with its TLVs.
    V2,
}

/// Which HTTP the endpoints of a pool are spoken to in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 under TLS.
    H2,
    /// HTTP/2 in cleartext, with prior knowledge.
    H2c,
    /// What the endpoint chooses in the TLS handshake.
    Auto,
}

/// What happens when no endpoint of a pool is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllDown {
    /// Choose among all of them as if they were up.
    FailOpen,
    /// Answer `no_endpoint`.
    FailClosed,
}

/// What becomes of established streams when their endpoint goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDown {
    /// They go on for as long as both sides want.
    #[default]
    Keep,
    /// They are reset.
    Close,
}

/// A named set of endpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Pool {
    pub name: String,
    pub balance: Balance,
    pub endpoints: Vec<Endpoint>,
    pub all_down: AllDown,
    #[serde(default)]
    pub on_down: OnDown,
    pub minimum_healthy_percent: u32,
    pub slow_start_ms: u64,
    pub eject: Eject,
    pub connect_timeout_ms: u64,
    pub retries: u32,
    pub max_connections: u32,
    /// Connections or requests that may wait for a place; 0 = none.
    #[serde(default)]
    pub queue_size: u32,
    #[serde(default)]
    pub queue_timeout_ms: u64,
    pub max_idle_connections: u32,
    pub idle_timeout_ms: u64,
    #[serde(default)]
    pub protocol: PoolProtocol,
    /// Requests at once on one HTTP/2 connection.
    #[serde(default = "default_streams")]
    pub max_streams: u32,
    /// Requests that one connection carries in its life; 0 = any number.
    #[serde(default)]
    pub max_requests: u64,
    /// How old a connection may get; 0 = any age.
    #[serde(default)]
    pub connection_age_ms: u64,
    pub tls: Option<PoolTls>,
    pub proxy_protocol: ProxyProtocol,
    /// Its endpoints are gateways on other hosts.
    #[serde(default)]
    pub gateways: bool,
    /// Read by the prober only.
    pub health: Option<serde_json::Value>,
}

fn default_streams() -> u32 {
    100
}

/// One address of one application.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub id: String,
    pub address: String,
    pub weight: u32,
    pub priority: u32,
    /// In another zone than this node's.
    pub remote: bool,
}

/// TLS towards the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PoolTls {
    pub server_name: Option<String>,
    pub ca_pem: Option<String>,
    pub verify: bool,
    /// What is shown to endpoints that ask.
    #[serde(default)]
    pub certificate: Option<Certificate>,
    /// SHA-256 of public keys, in base64; empty = any key.
    #[serde(default)]
    pub pins: Vec<String>,
}

/// One rule: a match, filters and an action.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Route {
    pub name: String,
    #[serde(rename = "match")]
    pub matches: Match,
    pub filters: Vec<Filter>,
    pub action: Action,
    pub body_bytes: u64,
    pub response_head_ms: u64,
    pub between_bytes_ms: u64,
    pub total_ms: u64,
    pub upgrade_idle_ms: u64,
    /// How long an upgraded connection may last; 0 = without end.
    #[serde(default)]
    pub upgrade_total_ms: u64,
}

/// Conditions of a route. An empty list is no condition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Match {
    pub hosts: Vec<String>,
    pub paths: Vec<PathMatch>,
    pub methods: Vec<String>,
    pub headers: Vec<NamedMatch>,
    pub queries: Vec<NamedMatch>,
    pub cookies: Vec<NamedMatch>,
    pub sources: Vec<String>,
    /// Names of listeners.
    pub listeners: Vec<String>,
    pub client_certificate: Option<CertificateMatch>,
}

/// Conditions on the client's certificate, which must be there. An empty list is no condition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct CertificateMatch {
    pub subject: Option<ValueMatch>,
    pub san: Option<ValueMatch>,
    /// SHA-256, 64 lower-case hex digits each.
    pub fingerprints: Vec<String>,
}

/// A condition on a value that has no name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ValueMatch {
    pub kind: ValueKind,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub invert: bool,
}

/// A condition on the path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PathMatch {
    pub kind: PathKind,
    pub value: String,
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Byte for byte.
    Exact,
    /// The value itself, or anything below it.
    Prefix,
    /// A regular expression over the whole path (unanchored, as written).
    Regex,
}

/// A condition on a header, query parameter or cookie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct NamedMatch {
    pub name: String,
    pub kind: ValueKind,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub invert: bool,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// Byte for byte.
    Exact,
    /// Starts with.
    Prefix,
    /// There at all.
    Present,
    /// A regular expression.
    Regex,
}

/// What happens to a request or response on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Filter {
    RewritePrefix {
        prefix: String,
    },
    RequestHeaders(HeaderEdit),
    ResponseHeaders(HeaderEdit),
    RateLimit {
        per_second: f64,
        burst: u32,
        #[serde(default)]
        source_prefix: SourcePrefix,
    },
    GrpcWeb {},
    Sticky {
        cookie: String,
        max_age_ms: u64,
        secure: bool,
        path: String,
    },
}

/// Changes to a header block, made in the order remove, set, add.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HeaderEdit {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// What a matched request gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Action {
    Pool { pool: String },
    Respond { status: u16, headers: Vec<(String, String)>, body: String },
    Redirect { status: u16, location: String },
}

/// What `%2F` in a path means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodedSlashes {
    /// A byte of its segment.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// A slash.
    Decode,
}

/// Limits and timeouts of a gateway before a route is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Gateway {
    pub header_bytes: usize,
    pub header_count: usize,
    pub uri_bytes: usize,
    pub request_head_ms: u64,
    pub idle_ms: u64,
    /// For how long an HTTP/1 connection has no request before a drain closes it.
    pub drain_idle_ms: u64,
    pub tls_handshake_ms: u64,
    pub http2_cleartext: bool,
    pub http2_streams: u32,
    pub http2_stream_window_bytes: u32,
    pub http2_connection_window_bytes: u32,
    /// Control frames of a connection in a second, on average; 0 = any number.
    pub http2_control_frames: u64,
    /// Several slashes in a row are one.
    #[serde(default)]
    pub merge_slashes: bool,
    #[serde(default)]
    pub encoded_slashes: EncodedSlashes,
    /// WebSocket over HTTP/2 (RFC 8441).
    #[serde(default)]
    pub http2_extended_connect: bool,
    /// A PING after so long without a frame from the other side; 0 = none.
    #[serde(default)]
    pub http2_ping_interval_ms: u64,
    /// How long its answer may take.
    #[serde(default)]
    pub http2_ping_timeout_ms: u64,
    /// How old a client's connection may get, less up to a tenth; 0 = any age.
    #[serde(default)]
    pub connection_age_ms: u64,
    /// Where the keys of clients' TLS connections are appended.
    #[serde(default)]
    pub key_log: Option<String>,
    pub cookie_secret: String,
}

/// Where logs go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Logs {
    pub access_to: String,
    pub access_format: String,
    pub level: String,
}

/// What the prober and the resolver know of one endpoint (docs/contracts.md §2).
#[derive(Debug, Clone, Deserialize)]
pub struct EndpointReport {
    /// The endpoint's identity.
    pub id: String,
    /// `up`, `down`, `draining` or `unknown`.
    pub state: String,
    /// Resolved addresses.
    pub addresses: Vec<String>,
    /// With `draining`: the drain's deadline has passed; with `down`: nothing of it can be reached. What is
    /// left is to be ended.
    #[serde(default)]
    pub closing: bool,
    /// What it said of itself, where it does.
    #[serde(default)]
    pub load: Option<ReportedLoad>,
}

/// How busy a gateway on another host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ReportedLoad {
    /// Tells this answer from the one before it.
    pub number: u64,
    /// Connections and requests in flight for each of its processes, in thousandths.
    pub units: u64,
    /// What one more connection adds.
    pub per_connection: u64,
}

/// Read a list of endpoint states.
pub fn parse_reports(bytes: &[u8]) -> Result<BTreeMap<String, EndpointReport>, SnapshotError> {
    let reports: Vec<EndpointReport> = serde_json::from_slice(bytes)?;
    Ok(reports.into_iter().map(|report| (report.id.clone(), report)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let certificate = r#"{"certificate_pem":"shown","key_pem":"hidden"}"#;
        let tls = format!(r#"{{"certificates":[{certificate}],"minimum_version":"1.2","alpn":[]}}"#);
        let pool_tls = format!(r#"{{"server_name":null,"ca_pem":null,"verify":true,"certificate":{certificate}}}"#);
        let text = format!(
            r#"{{"format":1,"listeners":[{{"name":"web","bind":[],"protocol":"http","pool":null,"server_names":null,
            "tls":{tls},"accept_proxy_from":[],"trusted_proxies":[],"allow":[],"deny":[],"connections_per_source":0,
            "max_connections":0,"hello_timeout_ms":0,"idle_timeout_ms":0,"connect_timeout_ms":0,"max_sessions":1,
            "responses":0}}],
            "pools":[{{"name":"app","balance":{{"policy":"random"}},"endpoints":[],"all_down":"fail_open",
            "minimum_healthy_percent":0,"slow_start_ms":0,"eject":{{"max_percent":0,"early_close_ms":0}},
            "connect_timeout_ms":0,"retries":0,"max_connections":0,"max_idle_connections":0,"idle_timeout_ms":0,
            "tls":{pool_tls},"proxy_protocol":"off","health":null}}],
            "routes":[],
            "gateway":{{"header_bytes":1,"header_count":1,"uri_bytes":1,"request_head_ms":0,"idle_ms":0,"drain_idle_ms":0,
            "tls_handshake_ms":0,"http2_cleartext":true,"http2_streams":1,"http2_stream_window_bytes":65535,
            "http2_connection_window_bytes":65535,"http2_control_frames":0,"cookie_secret":"hidden"}},
            "logs":{{"access_to":"off","access_format":"json","level":"info"}}}}"#
        );
        let snapshot = Snapshot::parse(text.as_bytes()).expect("a snapshot");
        let shown = String::from_utf8(snapshot.redacted()).expect("UTF-8");
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(shown.matches("(secret)").count(), 3);
        assert_eq!(shown.matches("shown").count(), 2);
    }
}
