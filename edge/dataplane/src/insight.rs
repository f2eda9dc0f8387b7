//! What the edge tells about itself: counters, status, and one log line per relayed stream.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde_json::Value;
use weirgate_shared::access_log::{AccessLog, Format, push_number_field, push_text_field};
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::metrics::{Counter, Families, Histogram, Kind};
use weirgate_shared::net::PathFacts;
use weirgate_shared::place::Queue;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::{self, Protocol};

use crate::opening::Opening;
use crate::reception::Visit;

/// Counts of one listener, kept across reloads.
#[derive(Default)]
pub(crate) struct ListenerStats {
    /// Open connections and UDP sessions: all that are relayed, and of those handed over the ones that a limit tracks.
    pub(crate) connections: Cell<i64>,
    pub(crate) accepted: Counter,
    pub(crate) refused: RefCell<FxHashMap<&'static str, u64>>,
    /// Accepting failed for lack of descriptors or memory.
    pub(crate) exhausted: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) duration: Histogram,
    pub(crate) datagrams_in: Counter,
    pub(crate) datagrams_out: Counter,
    /// How often a stream had to wait for its source's rate of bytes.
    pub(crate) byte_waits: Rc<Counter>,
    dropped: RefCell<FxHashMap<&'static str, u64>>,
    /// Segments sent again on relayed streams that have ended: to clients, to endpoints.
    pub(crate) retransmits: (Counter, Counter),
}

impl ListenerStats {
    /// Count a connection that was turned away or failed.
    pub(crate) fn refuse(&self, reason: Reason) {
        *self.refused.borrow_mut().entry(reason.code()).or_insert(0) += 1;
    }

    /// Count datagrams that were not passed on.
    pub(crate) fn drop_datagrams(&self, reason: Reason, count: u64) {
        *self.dropped.borrow_mut().entry(reason.code()).or_insert(0) += count;
    }
}

/// Counts of the hand-over to gateways.
#[derive(Default)]
pub(crate) struct HandoffStats {
    pub(crate) sent: Counter,
    /// A gateway's queue was full and another one was tried.
    pub(crate) queue_full: Counter,
    /// Every queue was full: the edge stopped accepting for a moment.
    pub(crate) stalled: Counter,
}

/// Who ended a stream or session first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    Client,
    Endpoint,
    Weirgate,
    /// A UDP session that nobody used any more.
    Idle,
}

impl ClosedBy {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Endpoint => b"endpoint",
            Self::Weirgate => b"weirgate",
            Self::Idle => b"idle",
        }
    }
}

/// One relayed stream, for its log line.
pub(crate) struct StreamRecord<'a> {
    pub(crate) id: ConnectionId,
    pub(crate) listener: &'a snapshot::Listener,
    pub(crate) peer: SocketAddr,
    pub(crate) opening: &'a Opening,
    pub(crate) pool: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Waiting for a place at an endpoint.
    pub(crate) queue_us: u64,
    pub(crate) connect_us: u64,
    /// From the accept to the endpoint's first byte; 0 = there was none.
    pub(crate) first_byte_us: u64,
    /// Held back by limits of bytes.
    pub(crate) held_us: u64,
    pub(crate) total_us: u64,
    /// What the kernel knew of the paths to client and endpoint, where the stream was long enough to ask.
    pub(crate) paths: Option<(PathFacts, PathFacts)>,
    pub(crate) closed_by: ClosedBy,
    pub(crate) reason: Option<Reason>,
    /// `Some` = a UDP session.
    pub(crate) datagrams: Option<DatagramCounts>,
}

/// What a UDP session counts besides bytes.
pub(crate) struct DatagramCounts {
    /// From the client.
    pub(crate) received: u64,
    /// To the client.
    pub(crate) sent: u64,
    /// How often it went to another endpoint.
    pub(crate) moves: u64,
}

impl<'a> StreamRecord<'a> {
    /// Of a connection that has not been delivered yet.
    pub(crate) fn of(visit: &'a Visit) -> Self {
        Self {
            id: visit.id,
            listener: &visit.listener.settings,
            peer: visit.peer,
            opening: &visit.opening,
            pool: "",
            endpoint: "",
            bytes_in: 0,
            bytes_out: 0,
            queue_us: 0,
            connect_us: 0,
            first_byte_us: 0,
            held_us: 0,
            total_us: 0,
            paths: None,
            closed_by: ClosedBy::Weirgate,
            reason: None,
            datagrams: None,
        }
    }

    pub(crate) fn client_has_gone(&mut self) {
        self.reason = Some(Reason::ClientGone);
        self.closed_by = ClosedBy::Client;
    }

    pub(crate) fn write(&self, log: &AccessLog) {
        log.line(|out| {
            let protocol: &[u8] = match self.listener.protocol {
                Protocol::Tls => b"tls",
                Protocol::Udp => b"udp",
                Protocol::Tcp | Protocol::Http => b"tcp",
            };
            out.extend_from_slice(b"{\"time\":\"");
            log.push_time(out, Format::Json);
            out.push(b'"');
            push_text_field(out, "connection_id", &self.id.hex());
            push_text_field(out, "protocol", protocol);
            push_text_field(out, "listener", self.listener.name.as_bytes());
            push_text_field(out, "client", self.opening.client.to_string().as_bytes());
            if self.opening.introduced {
                push_text_field(out, "peer", self.peer.to_string().as_bytes());
            }
            if let Some(hello) = &self.opening.hello {
                push_text_field(out, "sni", hello.server_name.as_deref().unwrap_or_default().as_bytes());
                push_text_field(out, "alpn", &hello.alpn.join(&b','));
            }
            push_text_field(out, "pool", self.pool.as_bytes());
            push_text_field(out, "endpoint", self.endpoint.as_bytes());
            push_number_field(out, "bytes_in", self.bytes_in);
            push_number_field(out, "bytes_out", self.bytes_out);
            match &self.datagrams {
                None => {
                    push_number_field(out, "queue_us", self.queue_us);
                    push_number_field(out, "connect_us", self.connect_us);
                    push_number_field(out, "first_byte_us", self.first_byte_us);
                    push_number_field(out, "held_us", self.held_us);
                    if let Some((client, endpoint)) = self.paths {
                        push_number_field(out, "client_rtt_us", client.round_trip_us.into());
                        push_number_field(out, "client_retransmits", client.retransmits.into());
                        push_number_field(out, "endpoint_rtt_us", endpoint.round_trip_us.into());
                        push_number_field(out, "endpoint_retransmits", endpoint.retransmits.into());
                    }
                }
                Some(datagrams) => {
                    push_number_field(out, "datagrams_in", datagrams.received);
                    push_number_field(out, "datagrams_out", datagrams.sent);
                    push_number_field(out, "moves", datagrams.moves);
                }
            }
            push_number_field(out, "total_us", self.total_us);
            push_text_field(out, "closed_by", self.closed_by.name());
            push_text_field(out, "reason", self.reason.map_or("", Reason::code).as_bytes());
            out.push(b'}');
        });
    }
}

/// The families of one thread's listeners.
pub(crate) fn listener_metrics<'a>(
    families: &mut Families,
    listeners: impl Iterator<Item = (&'a str, &'a ListenerStats)> + Clone,
) {
    let mut per_listener = |name: &str, kind: Kind, help: &str, value: fn(&ListenerStats) -> u64| {
        let samples = listeners.clone().map(|(name, stats)| (vec![("listener", name)], value(stats)));
        families.numbers(name, kind, help, samples.collect::<Vec<_>>());
    };
    per_listener(
        "weirgate_edge_connections",
        Kind::Gauge,
        "Open connections: all that are relayed, and of those handed over the ones that a limit tracks.",
        |stats| stats.connections.get().max(0) as u64,
    );
    per_listener("weirgate_edge_accepted_total", Kind::Counter, "Connections accepted.", |stats| {
        stats.accepted.value()
    });
    per_listener(
        "weirgate_edge_accept_exhausted_total",
        Kind::Counter,
        "Accepting failed for lack of descriptors or memory.",
        |stats| stats.exhausted.value(),
    );
    per_listener("weirgate_edge_bytes_in_total", Kind::Counter, "Bytes of relayed streams from clients.", |stats| {
        stats.bytes_in.value()
    });
    per_listener("weirgate_edge_bytes_out_total", Kind::Counter, "Bytes of relayed streams to clients.", |stats| {
        stats.bytes_out.value()
    });
    per_listener(
        "weirgate_edge_byte_limit_waits_total",
        Kind::Counter,
        "How often a relayed stream had to wait for its source's limit of bytes.",
        |stats| stats.byte_waits.value(),
    );
    let refused: Vec<(&str, &'static str, u64)> = listeners
        .clone()
        .flat_map(|(name, stats)| {
            let counts: Vec<_> = stats.refused.borrow().iter().map(|(&reason, &count)| (name, reason, count)).collect();
            counts
        })
        .collect();
    families.numbers(
        "weirgate_edge_refused_total",
        Kind::Counter,
        "Connections turned away or failed, by reason.",
        refused.iter().map(|&(name, reason, count)| (vec![("listener", name), ("reason", reason)], count)),
    );
    families.histograms(
        "weirgate_edge_stream_duration_seconds",
        "How long relayed streams lasted.",
        listeners.map(|(name, stats)| (vec![("listener", name)], &stats.duration)).filter(|(_, h)| h.count() > 0),
    );
}

/// The families that only listeners of relayed streams have.
pub(crate) fn stream_metrics<'a>(
    families: &mut Families,
    listeners: impl Iterator<Item = (&'a str, &'a ListenerStats)>,
) {
    let retransmits = listeners.flat_map(|(name, stats)| {
        let (clients, endpoints) = &stats.retransmits;
        [("client", clients), ("endpoint", endpoints)]
            .map(|(side, count)| (vec![("listener", name), ("side", side)], count.value()))
    });
    families.numbers(
        "weirgate_edge_retransmits_total",
        Kind::Counter,
        "TCP segments sent again to clients and endpoints, counted when a relayed stream ends.",
        retransmits.collect::<Vec<_>>(),
    );
}

/// Counts by listener and reason.
fn by_reason<'a, I: Iterator<Item = (&'a str, &'a RefCell<FxHashMap<&'static str, u64>>)>>(
    families: &mut Families,
    name: &str,
    help: &str,
    counts: impl Fn() -> I,
) {
    let samples: Vec<_> = counts()
        .flat_map(|(listener, counts)| {
            let copied: Vec<_> = counts.borrow().iter().map(|(&reason, &count)| (reason, count)).collect();
            copied.into_iter().map(move |(reason, count)| (vec![("listener", listener), ("reason", reason)], count))
        })
        .collect();
    families.numbers(name, Kind::Counter, help, samples);
}

/// The families that only UDP listeners have.
pub(crate) fn datagram_metrics<'a>(
    families: &mut Families,
    listeners: &(impl Iterator<Item = (&'a str, &'a ListenerStats)> + Clone),
) {
    let mut per_listener = |name: &str, help: &str, value: fn(&ListenerStats) -> u64| {
        let samples = listeners.clone().map(|(name, stats)| (vec![("listener", name)], value(stats)));
        families.numbers(name, Kind::Counter, help, samples.collect::<Vec<_>>());
    };
    per_listener("weirgate_edge_datagrams_in_total", "Datagrams from clients.", |stats| stats.datagrams_in.value());
    per_listener("weirgate_edge_datagrams_out_total", "Datagrams for clients.", |stats| stats.datagrams_out.value());
    by_reason(families, "weirgate_edge_datagrams_dropped_total", "Datagrams not passed on, by reason.", || {
        listeners.clone().map(|(name, stats)| (name, &stats.dropped))
    });
}

/// The families of the queues for a place at an endpoint.
pub(crate) fn queue_metrics<'a>(
    families: &mut Families,
    queues: &(impl Iterator<Item = (&'a str, &'a Queue)> + Clone),
) {
    let mut per_pool = |name: &str, kind: Kind, help: &str, value: fn(&Queue) -> u64| {
        families.numbers(name, kind, help, queues.clone().map(|(pool, queue)| (vec![("pool", pool)], value(queue))));
    };
    per_pool("weirgate_edge_queue_length", Kind::Gauge, "Connections that wait for a place at an endpoint.", |queue| {
        queue.len() as u64
    });
    per_pool(
        "weirgate_edge_queued_total",
        Kind::Counter,
        "Connections that had to wait for a place at an endpoint.",
        |queue| queue.waits.value(),
    );
}

/// The families of the hand-over.
pub(crate) fn handoff_metrics(families: &mut Families, handoffs: &HandoffStats) {
    let mut single =
        |name: &str, help: &str, value: u64| families.numbers(name, Kind::Counter, help, [(vec![], value)]);
    single("weirgate_edge_handoffs_total", "Connections handed to gateways.", handoffs.sent.value());
    single(
        "weirgate_edge_handoff_queue_full_total",
        "A gateway's queue was full; another was tried.",
        handoffs.queue_full.value(),
    );
    single("weirgate_edge_handoff_stalled_total", "Every queue was full; accepting paused.", handoffs.stalled.value());
}

/// One entry an endpoint, where two threads serve its pool: counts added, and it is out where it is for one of them.
/// Its state is the last one's, which is told last.
pub(crate) fn one_each(entries: Vec<Value>) -> Vec<Value> {
    let mut places: FxHashMap<String, usize> = FxHashMap::default();
    let mut merged: Vec<Value> = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = entry["id"].as_str().unwrap_or_default().to_owned();
        let place = *places.entry(id).or_insert(merged.len());
        let Some(Value::Object(known)) = merged.get_mut(place) else {
            merged.push(entry);
            continue;
        };
        let Value::Object(entry) = entry else { continue };
        for (name, value) in entry {
            let sum = match (&known[&name], &value) {
                (Value::Number(one), Value::Number(other)) => {
                    Value::from(one.as_u64().unwrap_or_default() + other.as_u64().unwrap_or_default())
                }
                (&Value::Bool(one), &Value::Bool(other)) => Value::Bool(one || other),
                _ => value,
            };
            known.insert(name, sum);
        }
    }
    merged
}

/// Lines of the access log that were lost.
pub(crate) fn log_metrics(families: &mut Families, process: &str, lost: u64) {
    families.numbers(
        "weirgate_access_log_lost_total",
        Kind::Counter,
        "Access log lines lost because the log could not keep up or be written.",
        [(vec![("process", process)], lost)],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_endpoint_of_two_threads_is_told_of_once() {
        let entry = |id: &str, state: &str, ejected: bool, count: u64| json!({"id": id, "state": state, "ejected": ejected, "connections": count});
        let merged =
            one_each(vec![entry("a", "up", true, 2), entry("b", "up", false, 1), entry("a", "draining", false, 3)]);
        assert_eq!(merged, [entry("a", "draining", true, 5), entry("b", "up", false, 1)]);
        assert!(one_each(Vec::new()).is_empty());
    }
}
