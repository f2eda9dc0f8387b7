//! Listening sockets: what is known of each, and which thread serves it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use weirgate_shared::cidr::{LOCAL, canonical};
use weirgate_shared::clock;
use weirgate_shared::metrics::Counter;
use weirgate_shared::net::{Accepted, close_with_reset, listener_address, set_no_delay};
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::Throttles;
use weirgate_shared::source::SourceCounts;

use crate::admit::{Admitted, Gate, Way, admit, readmit};
use crate::config::{Config, Listener};
use crate::insight::ListenerStats;

/// One listening socket; its configuration can change under it.
pub(crate) struct Slot {
    listener: RefCell<Rc<Listener>>,
    pub(crate) socket: OwnedFd,
    /// The socket's `name|bind`.
    pub(crate) key: String,
    pub(crate) local: SocketAddr,
    /// Of the listener, whatever the number of its sockets.
    pub(crate) stats: Rc<ListenerStats>,
    sources: SourceCounts,
    commons: Arc<Commons>,
    /// Of this socket.
    accepted: Counter,
    /// Of this socket.
    refused: Counter,
}

/// A connection that was let in.
pub(crate) struct Arrival {
    pub(crate) listener: Rc<Listener>,
    pub(crate) socket: OwnedFd,
    pub(crate) client: SocketAddr,
    pub(crate) accepted_us: u64,
    pub(crate) admitted: Admitted,
}

impl Slot {
    /// The configuration in force.
    pub(crate) fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.listener.borrow())
    }

    /// Judge the source of a connection or UDP session; one that is turned away is counted by the caller.
    pub(crate) fn admit(&self, source: IpAddr) -> Result<Admitted, Reason> {
        admit(&self.listener.borrow(), &self.stats, &self.sources, &self.commons.gate, source)
    }

    /// Take the places of a connection or session that this process's predecessor had let in.
    pub(crate) fn readmit(&self, source: IpAddr) -> Admitted {
        readmit(&self.listener.borrow(), &self.stats, &self.sources, &self.commons.gate, source)
    }

    /// How many of so many datagrams of a client may pass.
    pub(crate) fn admit_datagrams(&self, source: IpAddr, count: u64) -> u64 {
        self.commons.gate.admit_datagrams(&self.listener.borrow(), source, count)
    }

    /// How many datagrams of these sizes may pass.
    pub(crate) fn admit_bytes(&self, source: IpAddr, way: Way, sizes: impl Iterator<Item = u64>) -> u64 {
        self.commons.gate.admit_bytes(&self.listener.borrow(), source, way, sizes)
    }

    /// What holds back a stream of a client under `listener`, which it came by.
    pub(crate) fn throttles(&self, listener: &Listener, client: IpAddr) -> Throttles {
        self.commons.gate.throttles(listener, &self.stats, client)
    }

    /// Count a connection or session.
    pub(crate) fn count_accepted(&self) {
        self.stats.accepted.add_one();
        self.accepted.add_one();
    }

    /// Judge a connection just accepted. One that is turned away is closed with a reset, and counted.
    pub(crate) fn judge(&self, accepted: Accepted) -> Option<Arrival> {
        let accepted_us = clock::monotonic_us();
        let listener = self.listener();
        self.count_accepted();
        let client = accepted
            .peer
            .map_or_else(|| SocketAddr::new(LOCAL, 0), |peer| SocketAddr::new(canonical(peer.ip()), peer.port()));
        match self.admit(client.ip()) {
            Ok(admitted) => Some(Arrival { listener, socket: accepted.fd, client, accepted_us, admitted }),
            Err(reason) => {
                self.stats.refuse(reason);
                self.refused.add_one();
                close_with_reset(accepted.fd.as_fd());
                None
            }
        }
    }

    fn status(&self) -> Value {
        let (name, bind) = self.key.split_once('|').unwrap_or((&self.key, ""));
        json!({
            "name": name, "bind": bind, "connections": self.stats.connections.get(),
            "accepted_total": self.accepted.value(), "refused_total": self.refused.value(),
        })
    }
}

fn unserved(key: &str, error: &std::io::Error) -> String {
    format!("listening socket {key}: {error}")
}

/// What the threads of an edge share.
pub(crate) struct Commons {
    /// Listening sockets that no thread serves yet, by key `name|bind`.
    sockets: Mutex<BTreeMap<String, OwnedFd>>,
    pub(crate) gate: Gate,
}

impl Commons {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { sockets: Mutex::default(), gate }
    }

    /// A poisoned lock still guards a whole map.
    fn sockets(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.sockets.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn add(&self, key: String, socket: OwnedFd) {
        // Accepted sockets inherit it, which saves a system call each.
        set_no_delay(socket.as_fd());
        self.sockets().insert(key, socket);
    }

    /// Close those that the snapshot now in force does not name: they were meant for one that never came.
    pub(crate) fn clear(&self) {
        self.sockets().clear();
    }
}

struct Listening<S> {
    slot: Rc<Slot>,
    /// Accepts until it is dropped; `None` once the edge drains.
    serving: Option<S>,
}

/// The listeners of one thread. `S` is how it serves one.
pub(crate) struct Listeners<S> {
    listening: BTreeMap<String, Listening<S>>,
    stats: BTreeMap<String, Rc<ListenerStats>>,
    sources: BTreeMap<String, SourceCounts>,
    /// None is served: a successor before it takes over, and what it took over from.
    paused: bool,
}

impl<S> Default for Listeners<S> {
    fn default() -> Self {
        Self { listening: BTreeMap::new(), stats: BTreeMap::new(), sources: BTreeMap::new(), paused: false }
    }
}

impl<S> Listeners<S> {
    /// Every listener of `config` must be served already, or have a socket waiting. `elsewhere` names
    /// the sockets that the other thread would give up for it.
    pub(crate) fn check(&self, config: &Config, waiting: &Commons, elsewhere: &[String]) -> Result<(), String> {
        let sockets = waiting.sockets();
        let known =
            |key: &&String| self.listening.contains_key(*key) || sockets.contains_key(*key) || elsewhere.contains(key);
        match config.listeners.keys().find(|key| !known(key)) {
            Some(key) => Err(format!("no listening socket was passed for '{key}'")),
            None => Ok(()),
        }
    }

    /// The sockets that are served.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.listening.keys().cloned().collect()
    }

    /// Stop serving what `config` does not name. The sockets wait: the other thread may want them.
    pub(crate) fn release(&mut self, config: &Config, waiting: &Commons) {
        self.listening.retain(|key, known| {
            let wanted = config.listeners.contains_key(key);
            if !wanted {
                known.serving = None;
                if let Ok(socket) = known.slot.socket.try_clone() {
                    waiting.sockets().insert(key.clone(), socket);
                }
            }
            wanted
        });
    }

    /// Serve what `config` names.
    pub(crate) fn follow(
        &mut self,
        config: &Config,
        waiting: &Arc<Commons>,
        mut serve: impl FnMut(&Rc<Slot>) -> std::io::Result<S>,
    ) -> Result<(), String> {
        for (key, listener) in &config.listeners {
            if let Some(known) = self.listening.get(key) {
                *known.slot.listener.borrow_mut() = Rc::clone(listener);
                continue;
            }
            let Some(socket) = waiting.sockets().remove(key) else { continue };
            let name = &listener.settings.name;
            let slot = Rc::new(Slot {
                listener: RefCell::new(Rc::clone(listener)),
                local: listener_address(socket.as_fd()).unwrap_or_else(|| SocketAddr::new(LOCAL, 0)),
                socket,
                key: key.clone(),
                stats: Rc::clone(self.stats.entry(name.clone()).or_default()),
                sources: self.sources.entry(name.clone()).or_default().clone(),
                commons: Arc::clone(waiting),
                accepted: Counter::default(),
                refused: Counter::default(),
            });
            let serving = if self.paused { None } else { Some(serve(&slot).map_err(|error| unserved(key, &error))?) };
            self.listening.insert(key.clone(), Listening { slot, serving });
        }
        let names: Vec<&str> = config.listeners.values().map(|listener| listener.settings.name.as_str()).collect();
        self.stats.retain(|name, _| names.contains(&name.as_str()));
        self.sources.retain(|name, _| names.contains(&name.as_str()));
        Ok(())
    }

    /// Serve none, until [`Self::resume`].
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.stop();
    }

    /// Serve all of them.
    pub(crate) fn resume(&mut self, mut serve: impl FnMut(&Rc<Slot>) -> std::io::Result<S>) -> Result<(), String> {
        self.paused = false;
        for (key, listening) in self.listening.iter_mut().filter(|(_, listening)| listening.serving.is_none()) {
            listening.serving = Some(serve(&listening.slot).map_err(|error| unserved(key, &error))?);
        }
        Ok(())
    }

    /// A socket of the listener with this key.
    pub(crate) fn slot(&self, key: u64) -> Option<Rc<Slot>> {
        let mut slots = self.listening.values().map(|listening| &listening.slot);
        slots.find(|slot| slot.listener.borrow().key == key).map(Rc::clone)
    }

    /// Accept nothing more.
    pub(crate) fn stop(&mut self) {
        for listening in self.listening.values_mut() {
            listening.serving = None;
        }
    }

    pub(crate) fn status(&self) -> Vec<Value> {
        self.listening.values().map(|listening| listening.slot.status()).collect()
    }

    /// By listener name.
    pub(crate) fn stats(&self) -> impl Iterator<Item = (&str, &ListenerStats)> + Clone {
        self.stats.iter().map(|(name, stats)| (name.as_str(), &**stats))
    }
}
