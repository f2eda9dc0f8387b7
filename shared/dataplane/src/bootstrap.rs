//! What the supervisor tells a child at its start (docs/contracts.md §3).

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};

use serde::Deserialize;
use serde_json::Value;

use crate::endpoint_report::EndpointReport;
use crate::net::adopt;
use crate::shun_list::Shun;
use crate::snapshot::{Snapshot, SnapshotError};

/// The bootstrap message. Fields that only one tier gets are optional.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)] // docs/contracts.md §3 explains each
pub struct Bootstrap {
    pub name: String,
    #[serde(default)]
    pub index: usize,
    pub generation: u64,
    pub snapshot: Snapshot,
    #[serde(default)]
    pub endpoints: Vec<EndpointReport>,
    pub load_page_fd: RawFd,
    pub gateways: usize,
    pub rate_table_fd: Option<RawFd>,
    #[serde(default)]
    pub handoff_fds: Vec<RawFd>,
    #[serde(default)]
    pub listener_fds: BTreeMap<String, RawFd>,
    /// Edge only: whom to refuse from the first connection on.
    #[serde(default)]
    pub shuns: Vec<Shun>,
    /// Edge only: rates of the bytes of streams.
    pub byte_table_fd: Option<RawFd>,
    pub places_fd: Option<RawFd>,
    #[serde(default)]
    pub regions: usize,
    #[serde(default)]
    pub region: usize,
    #[serde(default)]
    pub salt: u64,
    pub succession_fd: Option<RawFd>,
    /// Read by the Python side of the child.
    #[serde(default)]
    pub control_socket: Value,
    /// Read by the Python side of the edge.
    #[serde(default)]
    pub fd_channel: Value,
}

impl Bootstrap {
    /// Read the message.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The endpoint reports by id.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<String, EndpointReport> {
        self.endpoints.iter().map(|report| (report.id.clone(), report.clone())).collect()
    }
}

/// Take over an fd that the message names; an error says which.
pub fn inherited(what: &str, fd: Option<RawFd>) -> Result<OwnedFd, String> {
    let fd = fd.ok_or_else(|| format!("the bootstrap names no {what}"))?;
    adopt(fd).map_err(|error| format!("{what} (fd {fd}): {error}"))
}
