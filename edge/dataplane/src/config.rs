//! The edge's run-time form of a snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde_json::Value;
use weirgate_shared::cidr::CidrSet;
use weirgate_shared::endpoint::EndpointRegistry;
use weirgate_shared::handoff::listener_key;
use weirgate_shared::pool::Pool;
use weirgate_shared::snapshot::{self, DefaultTarget, Protocol, ProxyProtocol, Snapshot, SnapshotError};

use crate::server_names::ServerNames;

/// One listener, ready to judge and deliver.
pub(crate) struct Listener {
    pub(crate) settings: snapshot::Listener,
    pub(crate) key: u64,
    pub(crate) allow: CidrSet,
    pub(crate) deny: CidrSet,
    /// Peers that send a PROXY header. Of connections that are handed over as they come, the gateway reads it.
    pub(crate) accept_proxy_from: CidrSet,
    /// `tcp` and `udp` only.
    pub(crate) pool: Option<Rc<Pool>>,
    /// `tls` only.
    pub(crate) names: Option<ServerNames>,
}

impl Listener {
    /// Whether its lists let `source` in: deny wins, and an empty allow list allows everyone.
    pub(crate) fn admits(&self, source: IpAddr) -> bool {
        !self.deny.contains(source) && (self.allow.is_empty() || self.allow.contains(source))
    }

    /// Whether something must be read of a connection of `peer` before it can be delivered.
    pub(crate) fn reads_opening(&self, peer: IpAddr) -> bool {
        self.names.is_some() || self.accept_proxy_from.contains(peer)
    }
}

/// Which thread's listeners: those whose connections are relayed, those that are handed over, or those of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Relayed,
    HandedOver,
    Datagrams,
}

impl Side {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::HandedOver,
            Protocol::Tcp | Protocol::Tls => Self::Relayed,
            Protocol::Udp => Self::Datagrams,
        }
    }
}

/// Everything that one snapshot means to one thread of the edge.
pub(crate) struct Config {
    /// By socket key `name|bind`.
    pub(crate) listeners: BTreeMap<String, Rc<Listener>>,
    pub(crate) pools: Vec<Rc<Pool>>,
}

impl Config {
    pub(crate) fn build(snapshot: &Snapshot, registry: &EndpointRegistry, side: Side) -> Result<Self, SnapshotError> {
        let own = snapshot.listeners.iter().filter(|listener| Side::of(listener.protocol) == side);
        let wanted: Vec<&str> = own.flat_map(pool_names).collect();
        let pools: FxHashMap<&str, Rc<Pool>> = snapshot
            .pools
            .iter()
            .filter(|pool| wanted.contains(&pool.name.as_str()))
            .map(|pool| (pool.name.as_str(), Rc::new(Pool::new(pool, registry))))
            .collect();
        let mut listeners = BTreeMap::new();
        let mine = |(_, settings): &(usize, &snapshot::Listener)| Side::of(settings.protocol) == side;
        for (index, settings) in snapshot.listeners.iter().enumerate().filter(mine) {
            let at = |field: &str| format!("listeners.{index}.{field}");
            let set = |field: &str, prefixes: &[String]| {
                CidrSet::parse(prefixes).map_err(|error| SnapshotError::value(at(field), error))
            };
            let (pool, names) = match (settings.protocol, &settings.pool, &settings.server_names) {
                (Protocol::Http, None, None) => (None, None),
                (Protocol::Tcp | Protocol::Udp, Some(name), None) => {
                    let pool = pools.get(name.as_str()).cloned();
                    let pool = pool.ok_or_else(|| SnapshotError::value(at("pool"), "no such pool"))?;
                    if side == Side::Datagrams && pool.settings.proxy_protocol == ProxyProtocol::V1 {
                        return Err(SnapshotError::value(at("pool"), "with proxy_protocol v1, which knows TCP only"));
                    }
                    (Some(pool), None)
                }
                (Protocol::Tls, None, Some(names)) => {
                    let unknown =
                        |path: String| SnapshotError::value(at(&format!("server_names.{path}")), "no such pool");
                    (None, Some(ServerNames::build(names, &pools).map_err(unknown)?))
                }
                (_, Some(_), _) => return Err(SnapshotError::value(at("pool"), "only with protocol tcp or udp")),
                (Protocol::Tcp | Protocol::Udp, None, _) => {
                    return Err(SnapshotError::value(at("pool"), "wanted with this protocol"));
                }
                (_, None, _) => {
                    return Err(SnapshotError::value(at("server_names"), "with protocol tls, and only there"));
                }
            };
            let listener = Rc::new(Listener {
                key: listener_key(&settings.name),
                allow: set("allow", &settings.allow)?,
                deny: set("deny", &settings.deny)?,
                accept_proxy_from: set("accept_proxy_from", &settings.accept_proxy_from)?,
                pool,
                names,
                // the lists are long, and nobody asks for their text again
                settings: snapshot::Listener { allow: Vec::new(), deny: Vec::new(), ..settings.clone() },
            });
            for bind in &settings.bind {
                // An address can be bound once for each transport.
                let transport = if settings.protocol == Protocol::Udp { "udp:" } else { "" };
                listeners.insert(format!("{}|{transport}{bind}", settings.name), Rc::clone(&listener));
            }
        }
        Ok(Self { listeners, pools: pools.into_values().collect() })
    }

    /// All endpoints, for `status`.
    pub(crate) fn endpoint_status(&self) -> Vec<Value> {
        self.pools.iter().flat_map(|pool| &pool.members).map(|member| member.endpoint.status()).collect()
    }
}

/// The pools that a listener relays to.
fn pool_names(listener: &snapshot::Listener) -> impl Iterator<Item = &str> {
    let names = listener.server_names.iter();
    let default = names.clone().filter_map(|names| match &names.default {
        DefaultTarget::Pool { pool } => Some(pool.as_str()),
        DefaultTarget::Refuse | DefaultTarget::Terminate => None,
    });
    let named = names.flat_map(|names| names.pools.values()).map(String::as_str);
    listener.pool.as_deref().into_iter().chain(named).chain(default)
}

/// What only the edge can judge about a snapshot: `(path, message)` each.
#[must_use]
pub fn validate(snapshot: &Snapshot) -> Vec<(String, String)> {
    [Side::HandedOver, Side::Relayed, Side::Datagrams]
        .into_iter()
        .filter_map(|side| Config::build(snapshot, &EndpointRegistry::default(), side).err())
        .map(|error| match error {
            SnapshotError::Value { path, message } => (path, message),
            error => (String::new(), error.to_string()),
        })
        .collect()
}
