//! The gateway's run-time form of a snapshot: listeners, routes with their filters, pools.

use std::cell::RefCell;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};
use weirgate_shared::cidr::CidrSet;
use weirgate_shared::endpoint::EndpointRegistry;
use weirgate_shared::handoff::listener_key;
use weirgate_shared::pool::Pool;
use weirgate_shared::snapshot::{self, Action, PoolProtocol, Protocol, Snapshot, SnapshotError};

use crate::filters::{Filter, Surroundings, build as build_filter};
use crate::http1::{EncodedSlashes, Limits, PathPolicy};
use crate::insight::RouteStats;
use crate::routing::Router;
use crate::tls;
use crate::upstream::{Connections, PoolTls, UpstreamPool, Waiting};

/// A listener as the gateway sees it: an `http` one, or a `tls` one of which some names end here.
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) accept_proxy_from: CidrSet,
    pub(crate) trusted_proxies: CidrSet,
    /// Its connections come from edges on other hosts, and each belongs to the listener that the edge names.
    pub(crate) from_edges: bool,
}

/// What a route does with its requests.
pub(crate) enum RouteAction {
    Pool(Rc<UpstreamPool>),
    Respond { status: u16, headers: Vec<(String, String)>, body: String },
    Redirect { status: u16, location: String },
}

/// One route.
pub(crate) struct Route {
    pub(crate) settings: snapshot::Route,
    pub(crate) filters: Vec<Box<dyn Filter>>,
    pub(crate) action: RouteAction,
    pub(crate) stats: Rc<RouteStats>,
}

/// What outlives snapshots, by name or identity.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) registry: EndpointRegistry,
    connections: RefCell<FxHashMap<String, Rc<Connections>>>,
    waiting: RefCell<FxHashMap<String, Rc<Waiting>>>,
    stats: RefCell<FxHashMap<String, Rc<RouteStats>>>,
    pub(crate) tls: RefCell<tls::Kept>,
}

/// Everything that one snapshot means to a gateway. Requests hold it until they end.
pub(crate) struct Runtime {
    pub(crate) snapshot: Snapshot,
    pub(crate) generation: u64,
    pub(crate) limits: Limits,
    pub(crate) listeners: FxHashMap<u64, Rc<Listener>>,
    pub(crate) router: Router,
    pub(crate) routes: Vec<Route>,
    pub(crate) pools: Vec<Rc<UpstreamPool>>,
}

impl Runtime {
    /// Compile `snapshot`; nothing kept is changed when it fails.
    pub(crate) fn build(snapshot: Snapshot, generation: u64, kept: &Kept) -> Result<Self, SnapshotError> {
        let listeners = build_listeners(&snapshot, kept)?;
        let used: Vec<&str> = snapshot
            .routes
            .iter()
            .filter_map(|route| if let Action::Pool { pool } = &route.action { Some(pool.as_str()) } else { None })
            .collect();
        let mut pools: FxHashMap<&str, Rc<UpstreamPool>> = FxHashMap::default();
        for (index, settings) in
            snapshot.pools.iter().enumerate().filter(|(_, pool)| used.contains(&pool.name.as_str()))
        {
            pools.insert(&settings.name, Rc::new(build_pool(index, settings, kept)?));
        }
        let router = Router::build(snapshot.routes.iter().map(|route| &route.matches))?;
        let routes = snapshot
            .routes
            .iter()
            .enumerate()
            .map(|(index, settings)| build_route(index, settings, &pools, &snapshot.gateway.cookie_secret, kept))
            .collect::<Result<Vec<_>, _>>()?;
        let gateway = &snapshot.gateway;
        let limits = Limits {
            header_bytes: gateway.header_bytes,
            header_count: gateway.header_count,
            uri_bytes: gateway.uri_bytes,
            paths: PathPolicy {
                merge_slashes: gateway.merge_slashes,
                encoded_slashes: match gateway.encoded_slashes {
                    snapshot::EncodedSlashes::Keep => EncodedSlashes::Keep,
                    snapshot::EncodedSlashes::Reject => EncodedSlashes::Reject,
                    snapshot::EncodedSlashes::Decode => EncodedSlashes::Decode,
                },
            },
        };
        let pools = pools.into_values().collect();
        Ok(Self { snapshot, generation, limits, listeners, router, routes, pools })
    }

    /// Forget kept state of endpoints and routes that are no longer configured.
    pub(crate) fn forget_others(&self, kept: &Kept) {
        let ids: Vec<&str> =
            self.pools.iter().flat_map(|pool| &pool.pool.members).map(|member| member.endpoint.id.as_str()).collect();
        kept.connections.borrow_mut().retain(|id, _| ids.contains(&id.as_str()));
        let pools: Vec<&str> = self.pools.iter().map(|pool| pool.pool.settings.name.as_str()).collect();
        kept.waiting.borrow_mut().retain(|name, _| pools.contains(&name.as_str()));
        let names: rustc_hash::FxHashSet<&str> = self.snapshot.routes.iter().map(|route| route.name.as_str()).collect();
        kept.stats.borrow_mut().retain(|name, _| names.contains(name.as_str()));
    }
}

fn build_listeners(snapshot: &Snapshot, kept: &Kept) -> Result<FxHashMap<u64, Rc<Listener>>, SnapshotError> {
    let mut listeners = FxHashMap::default();
    let mine = |listener: &snapshot::Listener| match listener.protocol {
        Protocol::Http => true,
        Protocol::Tls => listener.server_names.as_ref().is_some_and(snapshot::ServerNames::terminates),
        Protocol::Tcp | Protocol::Udp => false,
    };
    for (index, settings) in snapshot.listeners.iter().enumerate().filter(|(_, listener)| mine(listener)) {
        let set = |field: &str, prefixes: &[String]| {
            CidrSet::parse(prefixes).map_err(|error| SnapshotError::value(format!("listeners.{index}.{field}"), error))
        };
        let secret = &snapshot.gateway.cookie_secret;
        let tls = settings.tls.as_ref().map(|tls| tls::server(tls, secret, &mut kept.tls.borrow_mut())).transpose();
        if settings.protocol == Protocol::Tls && settings.tls.is_none() {
            return Err(SnapshotError::value(format!("listeners.{index}.tls"), "wanted: some names end here"));
        }
        // The PROXY header of a tls listener stands before the ClientHello: the edge has read it.
        let accept_proxy_from: &[String] =
            if settings.protocol == Protocol::Http { &settings.accept_proxy_from } else { &[] };
        let listener = Listener {
            name: settings.name.clone(),
            tls: tls.map_err(|error| below(&format!("listeners.{index}.tls"), error))?,
            accept_proxy_from: set("accept_proxy_from", accept_proxy_from)?,
            trusted_proxies: set("trusted_proxies", &settings.trusted_proxies)?,
            from_edges: settings.from_edges,
        };
        listeners.insert(listener_key(&settings.name), Rc::new(listener));
    }
    Ok(listeners)
}

fn build_pool(index: usize, settings: &snapshot::Pool, kept: &Kept) -> Result<UpstreamPool, SnapshotError> {
    let pool = Pool::new(settings, &kept.registry);
    let mut known = kept.connections.borrow_mut();
    let connections =
        pool.members.iter().map(|member| Rc::clone(known.entry(member.endpoint.id.clone()).or_default())).collect();
    let tls = settings.tls.as_ref().map(|tls| pool_tls(tls, settings.protocol)).transpose();
    Ok(UpstreamPool {
        connections,
        tls: tls.map_err(|error| below(&format!("pools.{index}.tls"), error))?,
        transport: BuildHasherDefault::<FxHasher>::default().hash_one((&settings.tls, settings.protocol)),
        waiting: Rc::clone(kept.waiting.borrow_mut().entry(settings.name.clone()).or_default()),
        pool,
    })
}

fn pool_tls(settings: &snapshot::PoolTls, protocol: PoolProtocol) -> Result<PoolTls, SnapshotError> {
    let offered: &[&[u8]] = match protocol {
        PoolProtocol::Http1 | PoolProtocol::H2c => &[b"http/1.1"],
        PoolProtocol::H2 => &[b"h2"],
        PoolProtocol::Auto => &[b"h2", b"http/1.1"],
    };
    let http1 = tls::client(settings, &[b"http/1.1"])?;
    let chosen = if protocol == PoolProtocol::Http1 { Arc::clone(&http1) } else { tls::client(settings, offered)? };
    Ok(PoolTls { http1, chosen })
}

fn build_route(
    index: usize,
    settings: &snapshot::Route,
    pools: &FxHashMap<&str, Rc<UpstreamPool>>,
    cookie_secret: &str,
    kept: &Kept,
) -> Result<Route, SnapshotError> {
    let action = match &settings.action {
        Action::Pool { pool } => RouteAction::Pool(pools.get(pool.as_str()).cloned().ok_or_else(|| {
            SnapshotError::value(format!("routes.{index}.action.pool"), format!("no pool named '{pool}'"))
        })?),
        Action::Respond { status, headers, body } => {
            RouteAction::Respond { status: *status, headers: headers.clone(), body: body.clone() }
        }
        Action::Redirect { status, location } => RouteAction::Redirect { status: *status, location: location.clone() },
    };
    let pool = if let RouteAction::Pool(pool) = &action { Some(&pool.pool) } else { None };
    let filters = settings.filters.iter().enumerate().map(|(position, filter)| {
        let around = Surroundings { route: &settings.name, position, pool, cookie_secret };
        build_filter(filter, &around).map_err(|error| below(&format!("routes.{index}"), error))
    });
    Ok(Route {
        filters: filters.collect::<Result<_, _>>()?,
        action,
        stats: Rc::clone(kept.stats.borrow_mut().entry(settings.name.clone()).or_default()),
        settings: settings.clone(),
    })
}

/// Put a path in front of an error's own.
fn below(parent: &str, error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Value { path, message } if path.is_empty() => SnapshotError::value(parent, message),
        SnapshotError::Value { path, message } => SnapshotError::value(format!("{parent}.{path}"), message),
        other => other,
    }
}

/// What only the gateway can judge about a snapshot: `(path, message)` each.
///
/// Every route and certificate is judged on its own, so that all that is wrong is told at once.
#[must_use]
pub fn validate(snapshot: &Snapshot) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut note = |error: SnapshotError| {
        if let SnapshotError::Value { path, message } = error {
            found.push((path, message));
        }
    };
    for (index, route) in snapshot.routes.iter().enumerate() {
        if let Err(SnapshotError::Value { path, message }) = Router::build(std::iter::once(&route.matches)) {
            note(SnapshotError::value(path.replacen("routes.0.", &format!("routes.{index}."), 1), message));
        }
    }
    // What has been parsed here is not parsed again below.
    let kept = Kept::default();
    let secret = &snapshot.gateway.cookie_secret;
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let mut kept = kept.tls.borrow_mut();
        if let Some(Err(error)) = listener.tls.as_ref().map(|tls| tls::server(tls, secret, &mut kept)) {
            note(below(&format!("listeners.{index}.tls"), error));
        }
    }
    for (index, pool) in snapshot.pools.iter().enumerate() {
        if let Some(Err(error)) = pool.tls.as_ref().map(|tls| tls::client(tls, &[])) {
            note(below(&format!("pools.{index}.tls"), error));
        }
    }
    if found.is_empty()
        && let Err(SnapshotError::Value { path, message }) = Runtime::build(snapshot.clone(), 0, &kept)
    {
        found.push((path, message));
    }
    found
}
