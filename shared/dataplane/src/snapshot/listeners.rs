//! What the edge accepts on, and what is asked of clients there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
