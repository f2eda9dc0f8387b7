//! What the supervisor tells of endpoints, between two snapshots (docs/contracts.md §2).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::snapshot::SnapshotError;

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
