//! Admission: what the edge decides before anything is spent on a connection.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use weirgate_shared::cidr::LOCAL;
use weirgate_shared::clock;
use weirgate_shared::places::{Place, Places};
use weirgate_shared::rate_table::{self, RateTable};
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::Throttles;
use weirgate_shared::shun_list::ShunList;
use weirgate_shared::snapshot::{ByteRate, Rate};
use weirgate_shared::source::{SourceCounts, SourceSlot};
use weirgate_shared::throttle::Throttle;

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
    /// Of relayed streams only: whoever forges the sources of datagrams takes no place from them.
    stream_bytes: Arc<RateTable>,
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
    BytesIn = 4,
    BytesOut = 5,
    /// The open connections of a source; those of the listener are counted as [`Counted::Listener`].
    Connections = 6,
}

/// Which way bytes go.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// From the client.
    In,
    /// To the client.
    Out,
}

impl Gate {
    /// For a process on its own.
    pub(crate) fn alone() -> std::io::Result<Self> {
        let salt = RandomState::new().build_hasher().finish();
        let stream_bytes = Arc::new(RateTable::create()?);
        Ok(Self { shuns: ShunList::default(), rates: RateTable::create()?, stream_bytes, places: None, salt })
    }

    /// With what the edge processes of a node share.
    pub(crate) fn shared(rates: RateTable, stream_bytes: RateTable, places: Places, salt: u64) -> Self {
        let stream_bytes = Arc::new(stream_bytes);
        Self { shuns: ShunList::default(), rates, stream_bytes, places: Some(places), salt }
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
            take(
                Counted::Connections,
                settings.source_prefix.of(source),
                settings.connections_per_source,
                Reason::SourceLimit,
            )?,
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
        let prefix = settings.source_prefix.of(source);
        if self.shuns.contains(source, || clock::monotonic_us() / 1000) {
            return Err(Reason::Shunned);
        }
        if !self.take(Counted::Source, listener, prefix, settings.new_connections_per_source.as_ref()) {
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
            rate => {
                let source = listener.settings.source_prefix.of(source);
                (0..count).take_while(|_| self.take(Counted::Datagrams, listener, source, rate)).count() as u64
            }
        }
    }

    /// How many of the datagrams of these sizes, from or to a client, may pass: those before the first that may not.
    pub(crate) fn admit_bytes(
        &self,
        listener: &Listener,
        source: IpAddr,
        way: Way,
        sizes: impl Iterator<Item = u64>,
    ) -> u64 {
        let (counted, rate) = limit_of(listener, way);
        let Some(rate) = rate else { return sizes.count() as u64 };
        let (scope, source) = (self.scope(counted, listener), listener.settings.source_prefix.of(source));
        let now_us = clock::monotonic_us();
        let mut sizes = sizes;
        let passes = |&bytes: &u64| self.rates.take_bytes(scope, source, rate, bytes, now_us);
        sizes.by_ref().take_while(passes).count() as u64
    }

    /// What holds back a stream of a client.
    pub(crate) fn throttles(&self, listener: &Listener, stats: &ListenerStats, client: IpAddr) -> Throttles {
        let throttle = |way| {
            let (counted, rate) = limit_of(listener, way);
            let source = listener.settings.source_prefix.of(client);
            let (table, waits) = (&self.stream_bytes, &stats.byte_waits);
            Some(Throttle::new(Arc::clone(table), self.scope(counted, listener), source, rate?, Rc::clone(waits)))
        };
        Throttles { forth: throttle(Way::In), back: throttle(Way::Out) }
    }
}

fn limit_of(listener: &Listener, way: Way) -> (Counted, Option<ByteRate>) {
    match way {
        Way::In => (Counted::BytesIn, listener.settings.bytes_in_per_source),
        Way::Out => (Counted::BytesOut, listener.settings.bytes_out_per_source),
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
        limit => Some(sources.enter(settings.source_prefix.of(source), limit).ok_or(Reason::SourceLimit)?),
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
    let settings = &listener.settings;
    let prefix = settings.source_prefix.of(source);
    let slot = (settings.connections_per_source != 0).then(|| sources.enter(prefix, u32::MAX)).flatten();
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
            "gateway":{{"header_bytes":1,"header_count":1,"uri_bytes":1,"request_head_ms":0,"idle_ms":0,"drain_idle_ms":0,"tls_handshake_ms":0,"http2_cleartext":true,"http2_streams":1,"http2_stream_window_bytes":65535,"http2_connection_window_bytes":65535,"http2_control_frames":0,"cookie_secret":""}},
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
    fn the_prefix_of_the_listener_says_who_is_one_source() {
        let limits = r#""allow":[],"deny":[],"connections_per_source":2,"max_connections":0,
            "new_connections_per_source":{"per_second":0.001,"burst":3},"datagrams_per_source":{"per_second":0.001,"burst":2},
            "bytes_in_per_source":{"per_second":0.001,"burst_bytes":1000},"bytes_out_per_source":{"per_second":0.001,"burst_bytes":500}"#;
        let cases = [
            ("", "2001:db8::1", "2001:db8::ffff:0:0:2", "2001:db8:0:1::1"),
            ("", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            (r#","source_prefix":{"ipv4":24,"ipv6":48}"#, "2001:db8:1::1", "2001:db8:1:2::2", "2001:db8:2::1"),
            (r#","source_prefix":{"ipv4":24,"ipv6":48}"#, "192.0.2.1", "192.0.2.255", "192.0.3.1"),
        ];
        for (prefix, one, alike, other) in cases {
            let listener = listener(&format!("{limits}{prefix}"));
            let (stats, gate) = (Rc::new(ListenerStats::default()), Gate::alone().expect("memfd"));
            let sources = SourceCounts::default();
            let judge = |text: &str| admit(&listener, &stats, &sources, &gate, text.parse().expect("valid"));
            let held = [judge(one), judge(alike)];
            assert!(held.iter().all(Result::is_ok), "{one}");
            assert_eq!([judge(one).err(), judge(alike).err()], [Some(Reason::SourceLimit), Some(Reason::SourceRate)]);
            assert!(judge(other).is_ok());
            let datagrams = |text: &str| gate.admit_datagrams(&listener, text.parse().expect("valid"), 2);
            assert_eq!([datagrams(one), datagrams(alike), datagrams(other)], [2, 0, 2]);
            let bytes = |text: &str, way| {
                gate.admit_bytes(&listener, text.parse().expect("valid"), way, [400, 400, 400].into_iter())
            };
            assert_eq!([bytes(one, Way::In), bytes(alike, Way::In), bytes(other, Way::In)], [2, 0, 2]);
            assert_eq!([bytes(one, Way::Out), bytes(alike, Way::Out), bytes(other, Way::Out)], [1, 0, 1]);
            let waits = |text: &str| {
                let mut back = gate.throttles(&listener, &stats, text.parse().expect("valid")).back.expect("limited");
                // without a runtime there is no timer, so only one that need not wait may be asked
                let free = back.poll_ready(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready();
                back.used(500);
                !free
            };
            assert_eq!([waits(one), waits(other)], [false, false]);
        }
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
