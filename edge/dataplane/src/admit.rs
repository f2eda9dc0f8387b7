//! Admission: what the edge decides before anything is spent on a connection.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::rc::Rc;

use weirgate_shared::cidr::LOCAL;
use weirgate_shared::clock;
use weirgate_shared::places::{Place, Places};
use weirgate_shared::rate_table::{self, RateTable};
use weirgate_shared::reason::Reason;
use weirgate_shared::shun_list::ShunList;
use weirgate_shared::snapshot::Rate;
use weirgate_shared::source::{SourceCounts, SourceSlot};

use crate::config::Listener;
use crate::insight::ListenerStats;

/// A connection let in: its places in the limits, given back when dropped.
pub(crate) struct Admitted {
    _source: Option<SourceSlot>,
    /// Its places among those of all edge processes: the listener's and the source's.
    _shared: [Option<Place>; 2],
    stats: Rc<ListenerStats>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        add(&self.stats.connections, -1);
    }
}

/// What is judged alike for all listeners and threads: who is shunned, and who comes too often.
///
/// Rates are kept in a table of fixed size, whatever the number of sources; a source that has to share
/// its place there can only be limited earlier.
pub(crate) struct Gate {
    pub(crate) shuns: ShunList,
    rates: RateTable,
    /// What the edge processes of a node hold together; `None` = there is only this one.
    places: Option<Places>,
    /// Nobody outside can know which sources share a place. Alike in all edge processes.
    salt: u64,
}

/// What a rate counts; each has places of its own in the table.
#[derive(Clone, Copy)]
enum Counted {
    Listener = 1,
    Source = 2,
    Datagrams = 3,
    /// The open connections of a source; those of the listener are counted as [`Counted::Listener`].
    Connections = 4,
}

impl Gate {
    /// For a process on its own.
    pub(crate) fn alone() -> std::io::Result<Self> {
        let salt = RandomState::new().build_hasher().finish();
        Ok(Self { shuns: ShunList::default(), rates: RateTable::create()?, places: None, salt })
    }

    /// With what the edge processes of a node share.
    pub(crate) fn shared(rates: RateTable, places: Places, salt: u64) -> Self {
        Self { shuns: ShunList::default(), rates, places: Some(places), salt }
    }

    fn scope(&self, counted: Counted, listener: &Listener) -> u64 {
        self.salt ^ listener.key.wrapping_mul(8).wrapping_add(counted as u64)
    }

    /// Take a connection's places among those of all edge processes. `force` = whatever the limits say.
    fn share(&self, listener: &Listener, source: IpAddr, force: bool) -> Result<[Option<Place>; 2], Reason> {
        let Some(places) = &self.places else { return Ok([None, None]) };
        let take = |counted, source, limit, reason| {
            let scope = self.scope(counted, listener);
            match limit {
                0 => Ok(None),
                _ if force => Ok(places.take(scope, source)),
                limit => places.enter(scope, source, limit).map_err(|_| reason),
            }
        };
        let settings = &listener.settings;
        Ok([
            take(Counted::Listener, LOCAL, settings.max_connections, Reason::ListenerFull)?,
            take(Counted::Connections, source, settings.connections_per_source, Reason::SourceLimit)?,
        ])
    }

    fn take(&self, counted: Counted, listener: &Listener, source: IpAddr, rate: Option<&Rate>) -> bool {
        let Some(rate) = rate else { return true };
        let scope = self.scope(counted, listener);
        let rate = rate_table::Rate { per_second: rate.per_second, burst: rate.burst };
        self.rates.take(scope, source, rate, clock::monotonic_us()).is_ok()
    }

    /// Judge by shuns and rates. A source over its own rate takes nothing of the listener's.
    fn judge(&self, listener: &Listener, source: IpAddr) -> Result<(), Reason> {
        let settings = &listener.settings;
        if self.shuns.contains(source, || clock::monotonic_us() / 1000) {
            return Err(Reason::Shunned);
        }
        if !self.take(Counted::Source, listener, source, settings.new_connections_per_source.as_ref()) {
            return Err(Reason::SourceRate);
        }
        if !self.take(Counted::Listener, listener, LOCAL, settings.new_connections.as_ref()) {
            return Err(Reason::ListenerRate);
        }
        Ok(())
    }

    /// How many of `count` datagrams of a client may pass, be there a session for them or not yet.
    pub(crate) fn admit_datagrams(&self, listener: &Listener, source: IpAddr, count: u64) -> u64 {
        match listener.settings.datagrams_per_source.as_ref() {
            None => count,
            rate => (0..count).take_while(|_| self.take(Counted::Datagrams, listener, source, rate)).count() as u64,
        }
    }
}

/// Judge a connection from `source`.
pub(crate) fn admit(
    listener: &Listener,
    stats: &Rc<ListenerStats>,
    sources: &SourceCounts,
    gate: &Gate,
    source: IpAddr,
) -> Result<Admitted, Reason> {
    if !listener.admits(source) {
        return Err(Reason::Denied);
    }
    gate.judge(listener, source)?;
    let settings = &listener.settings;
    if settings.max_connections != 0 && stats.connections.get() >= i64::from(settings.max_connections) {
        return Err(Reason::ListenerFull);
    }
    let slot = match settings.connections_per_source {
        0 => None,
        limit => Some(sources.enter(source, limit).ok_or(Reason::SourceLimit)?),
    };
    let shared = gate.share(listener, source, false)?;
    add(&stats.connections, 1);
    Ok(Admitted { _source: slot, _shared: shared, stats: Rc::clone(stats) })
}

/// Take the places of a connection that this process's predecessor had let in.
pub(crate) fn readmit(
    listener: &Listener,
    stats: &Rc<ListenerStats>,
    sources: &SourceCounts,
    gate: &Gate,
    source: IpAddr,
) -> Admitted {
    let slot = (listener.settings.connections_per_source != 0).then(|| sources.enter(source, u32::MAX)).flatten();
    let shared = gate.share(listener, source, true).unwrap_or_default();
    add(&stats.connections, 1);
    Admitted { _source: slot, _shared: shared, stats: Rc::clone(stats) }
}

fn add(count: &Cell<i64>, amount: i64) {
    count.set(count.get() + amount);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Config, Side};
    use weirgate_shared::endpoint::EndpointRegistry;
    use weirgate_shared::snapshot::Snapshot;

    fn listener(extra: &str) -> Rc<Listener> {
        let text = format!(
            r#"{{"format":1,"pools":[],"routes":[],"logs":{{"access_to":"off","access_format":"json","level":"info"}},
            "gateway":{{"header_bytes":1,"header_count":1,"uri_bytes":1,"request_head_ms":0,"idle_ms":0,"tls_handshake_ms":0,"cookie_secret":""}},
            "listeners":[{{"name":"web","bind":["127.0.0.1:1"],"protocol":"http","pool":null,"server_names":null,"tls":null,"accept_proxy_from":[],
            "trusted_proxies":[],"hello_timeout_ms":0,"idle_timeout_ms":0,"connect_timeout_ms":0,"max_sessions":0,"responses":0,{extra}}}]}}"#
        );
        let snapshot = Snapshot::parse(text.as_bytes()).expect("valid");
        let config = Config::build(&snapshot, &EndpointRegistry::default(), Side::HandedOver).expect("valid");
        Rc::clone(&config.listeners["web|127.0.0.1:1"])
    }

    /// A place in the limits of a listener that has none.
    pub(crate) fn admitted() -> Admitted {
        let listener = listener(r#""allow":[],"deny":[],"connections_per_source":0,"max_connections":0"#);
        let (stats, gate) = (Rc::new(ListenerStats::default()), Gate::alone().expect("memfd"));
        admit(&listener, &stats, &SourceCounts::default(), &gate, "10.0.0.1".parse().expect("valid"))
            .expect("no limits")
    }

    #[test]
    fn rates_hold_for_a_source_and_for_all_and_a_shunned_source_is_refused() {
        let none = r#""allow":[],"deny":[],"connections_per_source":0,"max_connections":0"#;
        let listener = listener(&format!(
            r#"{none},"new_connections_per_source":{{"per_second":0.001,"burst":2}},
            "new_connections":{{"per_second":0.001,"burst":5}},"datagrams_per_source":{{"per_second":0.001,"burst":3}}"#
        ));
        let (stats, gate) = (Rc::new(ListenerStats::default()), Gate::alone().expect("memfd"));
        let sources = SourceCounts::default();
        let judge = |address: &str| admit(&listener, &stats, &sources, &gate, address.parse().expect("valid")).err();
        assert_eq!([judge("10.0.0.1"), judge("10.0.0.1"), judge("10.0.0.1")], [None, None, Some(Reason::SourceRate)]);
        assert_eq!([judge("10.0.0.2"), judge("10.0.0.2")], [None, None]);
        assert_eq!([judge("10.0.0.3"), judge("10.0.0.4")], [None, Some(Reason::ListenerRate)]);
        let source = "10.0.0.5".parse().expect("valid");
        let datagrams = |count| gate.admit_datagrams(&listener, source, count);
        assert_eq!([datagrams(2), datagrams(2), datagrams(1)], [2, 1, 0]);
        let now_ms = clock::monotonic_us() / 1000;
        gate.shuns.replace(br#"[{"source":"10.0.0.0/8","ttl_ms":60000}]"#, now_ms).expect("valid");
        assert_eq!(judge("10.0.0.1"), Some(Reason::Shunned));
    }

    #[test]
    fn lists_and_limits_are_judged_in_order_and_places_come_back() {
        let listener =
            listener(r#""allow":["10.0.0.0/8"],"deny":["10.9.0.0/16"],"connections_per_source":1,"max_connections":2"#);
        let stats = Rc::new(ListenerStats::default());
        let sources = SourceCounts::default();
        let gate = Gate::alone().expect("memfd");
        let judge = |address: &str| admit(&listener, &stats, &sources, &gate, address.parse().expect("valid"));
        assert_eq!(judge("10.9.0.1").err(), Some(Reason::Denied));
        assert_eq!(judge("192.0.2.1").err(), Some(Reason::Denied));
        let first = judge("10.0.0.1");
        assert!(first.is_ok());
        assert_eq!(judge("10.0.0.1").err(), Some(Reason::SourceLimit));
        let second = judge("10.0.0.2");
        assert_eq!(judge("10.0.0.3").err(), Some(Reason::ListenerFull));
        drop(second);
        assert!(judge("10.0.0.3").is_ok());
        drop(first);
        assert!(judge("10.0.0.1").is_ok());
        assert_eq!(stats.connections.get(), 0);
    }
}
