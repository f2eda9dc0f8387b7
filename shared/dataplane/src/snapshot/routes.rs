//! Routes: what a request has to be like, what is done to it, and where it goes.

use serde::{Deserialize, Serialize};

use super::SourcePrefix;

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
