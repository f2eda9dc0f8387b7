//! Pools: endpoints, and how one of them is chosen and reached.

use serde::{Deserialize, Serialize};

use super::Certificate;

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
