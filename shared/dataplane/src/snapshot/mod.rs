//! The compiled configuration as the data planes read it (docs/contracts.md §1).
//!
//! Python has validated everything that it can; what only Rust can judge (regular expressions,
//! certificates) is judged by each tier when it builds its run-time form.

mod listeners;
mod pools;
mod routes;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use listeners::*;
pub use pools::*;
pub use routes::*;

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
