//! Endpoints at run time: health, load and ejection, kept by identity across every change.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::balance::Tables;
use crate::clock;
use crate::ejection::Ejection;
use crate::endpoint_report::{EndpointReport, ReportedLoad};
use crate::metrics::Counter;
use crate::place::Queue;
use crate::reason::Reason;

/// [`Endpoint::warmth`] of one that gets its whole share, and of one that has just come up.
pub const FULL_WARMTH: u64 = 1000;
const COLD: u64 = 100;
/// [`Endpoint::load`] of one connection to an endpoint that reports nothing.
const CONNECTION_UNITS: u64 = 1000;

/// What the prober says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not yet checked, or never checked: treated as up.
    Unknown,
    /// Passed its checks.
    Up,
    /// Failed them.
    Down,
    /// No new work.
    Draining,
}

impl Health {
    fn from_name(name: &str) -> Self {
        match name {
            "up" => Self::Up,
            "down" => Self::Down,
            "draining" => Self::Draining,
            _ => Self::Unknown,
        }
    }

    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// One endpoint of one pool.
pub struct Endpoint {
    /// Its identity (docs/contracts.md §1).
    pub id: String,
    /// The pool that it belongs to.
    pub pool: String,
    /// As configured: `host:port`.
    pub address: String,
    addresses: RefCell<Vec<SocketAddr>>,
    next_address: Cell<usize>,
    health: Cell<Health>,
    closing: Cell<bool>,
    falls: Cell<u32>,
    ejection: Ejection,
    /// When a slow start began, coarse; 0 = never.
    slow_since_ms: Cell<u64>,
    /// What it last said of itself, and the connections to it at that time.
    reported: Cell<Option<(ReportedLoad, u32)>>,
    /// Open connections to it.
    pub connections: Cell<u32>,
    /// Requests (or streams) on it now.
    pub in_flight: Cell<u32>,
    /// Requests (or streams) it was given.
    pub requests_total: Counter,
    /// Connects that failed.
    pub connect_failures: Counter,
    /// Streams that it ended before it had sent a byte, soon after the connect.
    pub early_closes: Counter,
}

impl Endpoint {
    fn new(id: &str, pool: &str, address: &str) -> Self {
        Self {
            id: id.to_owned(),
            pool: pool.to_owned(),
            address: address.to_owned(),
            addresses: RefCell::new(address.parse().into_iter().collect()),
            next_address: Cell::new(0),
            health: Cell::new(Health::Unknown),
            closing: Cell::new(false),
            falls: Cell::new(0),
            ejection: Ejection::default(),
            slow_since_ms: Cell::new(0),
            reported: Cell::new(None),
            connections: Cell::new(0),
            in_flight: Cell::new(0),
            requests_total: Counter::default(),
            connect_failures: Counter::default(),
            early_closes: Counter::default(),
        }
    }

    /// Returns whether the endpoint fell: it went down, or its drain's deadline has passed.
    fn report(&self, report: &EndpointReport) -> bool {
        let health = Health::from_name(&report.state);
        if health == Health::Up && self.health.get() == Health::Down {
            self.ejection.forget();
            self.start_slowly();
        }
        let fell =
            (health == Health::Down && self.health.get() != Health::Down) || (report.closing && !self.closing.get());
        if fell {
            self.falls.set(self.falls.get().wrapping_add(1));
        }
        self.health.set(health);
        self.closing.set(report.closing);
        if report.load.map(|load| load.number) != self.reported.get().map(|(load, _)| load.number) {
            self.reported.set(report.load.map(|load| (load, self.connections.get())));
        }
        let addresses: Vec<SocketAddr> = report.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        if !addresses.is_empty() {
            *self.addresses.borrow_mut() = addresses;
        }
        fell
    }

    /// What the prober says.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.get()
    }

    /// Its drain's deadline has passed: what it still carries is to be ended.
    #[must_use]
    pub fn closing(&self) -> bool {
        self.closing.get()
    }

    /// How often it fell: went down, or reached its drain's deadline.
    #[must_use]
    pub fn falls(&self) -> u32 {
        self.falls.get()
    }

    /// Taken out for a while because connects to it failed.
    #[must_use]
    pub fn ejected(&self) -> bool {
        self.ejection.in_force()
    }

    /// May get new work: not down, not draining, not ejected.
    #[must_use]
    pub fn usable(&self) -> bool {
        matches!(self.health.get(), Health::Up | Health::Unknown) && !self.ejected()
    }

    /// The host part of the configured address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The address to try next, and how many there are. A name's addresses take turns.
    #[must_use]
    pub fn next_address(&self) -> Option<(SocketAddr, usize)> {
        let addresses = self.addresses.borrow();
        let turn = self.next_address.get();
        self.next_address.set(turn.wrapping_add(1));
        let address = addresses.get(turn % addresses.len().max(1))?;
        Some((*address, addresses.len()))
    }

    /// How busy it is by its own last word, corrected by the connections to it from here that have come and
    /// gone since. Without a word of its own: those connections alone.
    #[must_use]
    pub fn load(&self) -> u64 {
        let own = u64::from(self.connections.get());
        match self.reported.get() {
            None => own * CONNECTION_UNITS,
            Some((load, then)) => {
                let now = load.units.saturating_add(own.saturating_mul(load.per_connection));
                now.saturating_sub(u64::from(then).saturating_mul(load.per_connection))
            }
        }
    }

    /// From now on its share grows to the whole, in pools with a slow start.
    pub fn start_slowly(&self) {
        self.slow_since_ms.set(clock::coarse_ms().max(1));
    }

    /// The part of its share that it may have now, in thousandths: from a tenth up to [`FULL_WARMTH`],
    /// evenly over `slow_start_ms`.
    #[must_use]
    pub fn warmth(&self, slow_start_ms: u64) -> u64 {
        let since = self.slow_since_ms.get();
        let elapsed = clock::coarse_ms().saturating_sub(since);
        if since == 0 || elapsed >= slow_start_ms {
            return FULL_WARMTH;
        }
        COLD + (FULL_WARMTH - COLD) * elapsed / slow_start_ms
    }

    /// A connect succeeded.
    pub fn connected(&self) {
        self.ejection.connected();
    }

    /// A stream had bytes of it, and ended well.
    pub fn answered(&self) {
        self.ejection.answered();
    }

    /// See [`crate::pool::Pool::connect_failed`], which knows how much of the pool is out.
    pub(crate) fn connect_failed(&self, may_eject: bool) {
        self.connect_failures.add_one();
        self.ejection.connect_failed(may_eject);
    }

    /// See [`crate::pool::Pool::closed_early`].
    pub(crate) fn closed_early(&self, may_eject: bool) {
        self.early_closes.add_one();
        self.ejection.closed_early(may_eject);
    }

    /// Count a request or stream for as long as the guard lives.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.requests_total.add_one();
        InFlight(Rc::clone(self))
    }

    /// Count an open connection for as long as the guard lives.
    #[must_use]
    pub fn open(self: &Rc<Self>) -> OpenConnection {
        self.connections.set(self.connections.get() + 1);
        OpenConnection(Rc::clone(self))
    }

    /// For `status` (docs/contracts.md §6).
    #[must_use]
    pub fn status(&self) -> Value {
        json!({
            "id": self.id, "pool": self.pool, "address": self.address, "state": self.health.get().name(),
            "ejected": self.ejected(), "connections": self.connections.get(),
            "requests_in_flight": self.in_flight.get(), "requests_total": self.requests_total.value(),
            "connect_failures": self.connect_failures.value(), "early_closes": self.early_closes.value(),
        })
    }
}

/// A request or stream on an endpoint.
pub struct InFlight(Rc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// An open connection to an endpoint.
pub struct OpenConnection(Rc<Endpoint>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// The reason that a failed connect to `address` is reported with.
///
/// Without a descriptor or a local port (EAGAIN: of UDP) the fault is ours. EADDRNOTAVAIL says no more than that there
/// is no local *address* where the host has no IPv6; without one of IPv4 it is ENETUNREACH.
#[must_use]
pub fn connect_reason(error: &std::io::Error, address: SocketAddr) -> Reason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN) => return Reason::Exhausted,
        Some(libc::EADDRNOTAVAIL) if address.is_ipv4() => return Reason::Exhausted,
        _ => {}
    }
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        std::io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    }
}

/// All endpoints of a data plane, by identity.
#[derive(Default)]
pub struct EndpointRegistry {
    known: RefCell<FxHashMap<String, Weak<Endpoint>>>,
    reports: RefCell<BTreeMap<String, EndpointReport>>,
    queues: RefCell<FxHashMap<String, Weak<Queue>>>,
    /// What pools that balance by hash keep over reloads.
    pub(crate) tables: Tables,
}

impl EndpointRegistry {
    /// Whether there is an endpoint of this identity.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.known.borrow().get(id).is_some_and(|endpoint| endpoint.strong_count() > 0)
    }

    /// The endpoint of this identity: the one that exists, or a new one with what was last reported of it.
    pub fn obtain(&self, id: &str, pool: &str, address: &str) -> Rc<Endpoint> {
        let mut known = self.known.borrow_mut();
        if let Some(endpoint) = known.get(id).and_then(Weak::upgrade) {
            return endpoint;
        }
        let endpoint = Rc::new(Endpoint::new(id, pool, address));
        if let Some(report) = self.reports.borrow().get(id) {
            endpoint.report(report);
        }
        known.retain(|_, endpoint| endpoint.strong_count() > 0);
        known.insert(id.to_owned(), Rc::downgrade(&endpoint));
        endpoint
    }

    /// The queue of the pool of this name: the one that exists, or a new one.
    pub(crate) fn queue(&self, pool: &str) -> Rc<Queue> {
        let mut queues = self.queues.borrow_mut();
        if let Some(queue) = queues.get(pool).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Rc::new(Queue::default());
        queues.retain(|_, queue| queue.strong_count() > 0);
        queues.insert(pool.to_owned(), Rc::downgrade(&queue));
        queue
    }

    /// Take over what the supervisor knows; returns the endpoints that fell.
    pub fn apply(&self, reports: BTreeMap<String, EndpointReport>) -> Vec<Rc<Endpoint>> {
        let mut fallen = Vec::new();
        for (id, endpoint) in self.known.borrow().iter() {
            if let (Some(endpoint), Some(report)) = (endpoint.upgrade(), reports.get(id))
                && endpoint.report(report)
            {
                fallen.push(endpoint);
            }
        }
        *self.reports.borrow_mut() = reports;
        fallen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &str, state: &str, address: &str) -> BTreeMap<String, EndpointReport> {
        let report = EndpointReport {
            id: id.into(),
            state: state.into(),
            addresses: vec![address.into()],
            closing: false,
            load: None,
        };
        BTreeMap::from([(id.to_owned(), report)])
    }

    #[test]
    fn state_survives_by_identity_and_reports_reach_endpoints_made_later() {
        clock::tick();
        let registry = EndpointRegistry::default();
        registry.apply(report("a", "down", "10.0.0.9:80"));
        let endpoint = registry.obtain("a", "api", "name.example:80");
        assert!(!endpoint.usable());
        assert_eq!(endpoint.next_address().map(|(address, _)| address.to_string()), Some("10.0.0.9:80".into()));
        registry.apply(report("a", "up", "10.0.0.8:80"));
        assert!(endpoint.usable());
        let in_flight = endpoint.enter();
        assert!(Rc::ptr_eq(&endpoint, &registry.obtain("a", "api", "name.example:80")));
        assert_eq!(endpoint.in_flight.get(), 1);
        drop(in_flight);
        assert_eq!((endpoint.in_flight.get(), endpoint.host()), (0, "name.example"));
    }

    #[test]
    fn an_endpoint_falls_once_when_it_goes_down_and_once_at_its_drain_s_deadline() {
        let registry = EndpointRegistry::default();
        let endpoint = registry.obtain("a", "api", "10.0.0.1:80");
        let told = |state: &str, closing: bool| {
            let mut reports = report("a", state, "10.0.0.1:80");
            reports.get_mut("a").expect("there").closing = closing;
            registry.apply(reports).len()
        };
        assert_eq!([told("up", false), told("down", false), told("down", false)], [0, 1, 0]);
        assert_eq!([told("draining", false), told("draining", true), told("draining", true)], [0, 1, 0]);
        assert!(endpoint.closing() && !endpoint.usable());
        assert_eq!([told("up", false), told("down", false)], [0, 1]);
        assert_eq!((endpoint.falls(), endpoint.closing()), (3, false));
    }

    #[test]
    fn what_is_ejected_is_not_usable_until_a_check_knows_better() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let endpoint = registry.obtain("b", "api", "10.0.0.1:80");
        endpoint.connect_failed(true);
        assert!(endpoint.ejected() && !endpoint.usable());
        registry.apply(report("b", "down", "10.0.0.1:80"));
        registry.apply(report("b", "up", "10.0.0.1:80"));
        assert!(endpoint.usable());
        (0..3).for_each(|_| endpoint.closed_early(true));
        assert_eq!((endpoint.usable(), endpoint.early_closes.value()), (false, 3));
    }

    #[test]
    fn from_down_to_up_it_warms_up_and_at_the_start_it_is_warm() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let endpoint = registry.obtain("b", "api", "10.0.0.1:80");
        registry.apply(report("b", "up", "10.0.0.1:80"));
        assert_eq!(endpoint.warmth(10_000), FULL_WARMTH);
        registry.apply(report("b", "down", "10.0.0.1:80"));
        registry.apply(report("b", "up", "10.0.0.1:80"));
        assert_eq!(endpoint.warmth(10_000), COLD);
        endpoint.slow_since_ms.set(clock::coarse_ms() - 5_000);
        assert_eq!(endpoint.warmth(10_000), 550);
        assert_eq!((endpoint.warmth(5_000), endpoint.warmth(0)), (FULL_WARMTH, FULL_WARMTH));
    }
}
