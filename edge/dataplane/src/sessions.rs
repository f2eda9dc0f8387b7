//! The UDP sessions of one listener: found by client, ordered by when they were last used.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::endpoint::{Endpoint, InFlight, OpenConnection};
use weirgate_shared::succession::SessionRecord;

use crate::admit::Admitted;

const NONE: u32 = u32::MAX;

/// One client's exchange with one endpoint.
pub(crate) struct Session {
    pub(crate) id: ConnectionId,
    pub(crate) client: SocketAddr,
    /// The address the client sent to, on a listener bound to a wildcard.
    pub(crate) local: Option<IpAddr>,
    /// Connected to the endpoint.
    pub(crate) socket: OwnedFd,
    pub(crate) endpoint: Rc<Endpoint>,
    /// Its place in the endpoint's counts.
    pub(crate) load: (InFlight, OpenConnection),
    /// Its place in the listener's limits.
    pub(crate) _admitted: Admitted,
    pub(crate) started_us: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) datagrams_in: u64,
    pub(crate) datagrams_out: u64,
    /// How often it went to another endpoint.
    pub(crate) moves: u64,
    /// Answers still expected, where the listener counts them.
    pub(crate) outstanding: u64,
    /// Datagrams to ask the kernel for at once: doubled while it has as many.
    pub(crate) burst: usize,
    /// The PROXY header in front of each datagram for the endpoint; empty until one is wanted.
    pub(crate) introduction: Vec<u8>,
}

impl Session {
    /// What a successor has to know of it besides its socket.
    pub(crate) fn record(&self, listener: &str, seen_ms: u64) -> SessionRecord {
        SessionRecord {
            listener: listener.to_owned(),
            id: String::from_utf8_lossy(&self.id.hex()).into_owned(),
            client: self.client,
            local: self.local,
            pool: self.endpoint.pool.clone(),
            endpoint: self.endpoint.id.clone(),
            endpoint_address: self.endpoint.address.clone(),
            started_us: self.started_us,
            seen_ms,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            datagrams_in: self.datagrams_in,
            datagrams_out: self.datagrams_out,
            moves: self.moves,
            outstanding: self.outstanding,
        }
    }

    /// The session that a predecessor tells of; `None` = its id is none.
    pub(crate) fn of(
        record: &SessionRecord,
        socket: OwnedFd,
        endpoint: Rc<Endpoint>,
        admitted: Admitted,
    ) -> Option<Self> {
        Some(Self {
            id: ConnectionId::from_hex(record.id.as_bytes())?,
            client: record.client,
            local: record.local,
            socket,
            load: (endpoint.enter(), endpoint.open()),
            endpoint,
            _admitted: admitted,
            started_us: record.started_us,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            datagrams_in: record.datagrams_in,
            datagrams_out: record.datagrams_out,
            moves: record.moves,
            outstanding: record.outstanding,
            burst: 1,
            introduction: Vec::new(),
        })
    }
}

struct Slot {
    session: Option<Session>,
    seen_ms: u64,
    older: u32,
    newer: u32,
}

/// Sessions by number, by client, and from the longest unused to the last used.
///
/// The client's address is a hostile key (it can be forged), so the map's hash is a keyed one.
pub(crate) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: HashMap<(SocketAddr, Option<IpAddr>), u32>,
    oldest: u32,
    newest: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_client: HashMap::new(), oldest: NONE, newest: NONE }
    }
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn find(&self, client: SocketAddr, local: Option<IpAddr>) -> Option<u32> {
        self.by_client.get(&(client, local)).copied()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Session> {
        self.slots.get_mut(number as usize)?.session.as_mut()
    }

    /// The number that the next session will get.
    pub(crate) fn next_number(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    /// Add a session, used now; its number is [`Self::next_number`].
    pub(crate) fn insert(&mut self, session: Session, now_ms: u64) {
        let number = self.next_number();
        self.by_client.insert((session.client, session.local), number);
        let slot = Slot { session: Some(session), seen_ms: now_ms, older: NONE, newer: NONE };
        if self.free.pop().is_some() {
            self.slots[number as usize] = slot;
        } else {
            self.slots.push(slot);
        }
        self.link(number);
    }

    /// Note that a session was used. Within one coarse moment the order does not change.
    pub(crate) fn touch(&mut self, number: u32, now_ms: u64) {
        let slot = &mut self.slots[number as usize];
        if slot.seen_ms != now_ms && slot.session.is_some() {
            slot.seen_ms = now_ms;
            self.unlink(number);
            self.link(number);
        }
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<Session> {
        let session = self.slots.get_mut(number as usize)?.session.take()?;
        self.unlink(number);
        self.by_client.remove(&(session.client, session.local));
        self.free.push(number);
        Some(session)
    }

    /// All of them with when they were last used, the longest unused first.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = (&Session, u64)> {
        let slot = |number: u32| (number != NONE).then(|| &self.slots[number as usize]);
        std::iter::successors(slot(self.oldest), move |last| slot(last.newer))
            .filter_map(|slot| Some((slot.session.as_ref()?, slot.seen_ms)))
    }

    /// The session that was not used for the longest time, and when it was.
    pub(crate) fn oldest(&self) -> Option<(u32, u64)> {
        (self.oldest != NONE).then(|| (self.oldest, self.slots[self.oldest as usize].seen_ms))
    }

    /// Those of one endpoint.
    pub(crate) fn of(&self, endpoint: &Rc<Endpoint>) -> Vec<u32> {
        let its = |slot: &Slot| slot.session.as_ref().is_some_and(|session| Rc::ptr_eq(&session.endpoint, endpoint));
        let numbers = self.slots.iter().enumerate().filter(|(_, slot)| its(slot));
        numbers.map(|(number, _)| number as u32).collect()
    }

    /// All numbers in use.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.by_client.values().copied().collect()
    }

    fn link(&mut self, number: u32) {
        let newest = self.newest;
        let slot = &mut self.slots[number as usize];
        (slot.older, slot.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = number,
            newest => self.slots[newest as usize].newer = number,
        }
        self.newest = number;
    }

    fn unlink(&mut self, number: u32) {
        let (older, newer) = {
            let slot = &self.slots[number as usize];
            (slot.older, slot.newer)
        };
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::admitted;
    use proptest::prelude::*;
    use weirgate_shared::endpoint::EndpointRegistry;
    use weirgate_shared::net::connect_datagram;

    fn session(port: u16) -> Session {
        let endpoint = EndpointRegistry::default().obtain("a", "p", "127.0.0.1:9");
        Session {
            id: ConnectionId(u128::from(port)),
            client: SocketAddr::new("10.0.0.1".parse().expect("valid"), port),
            local: None,
            socket: connect_datagram("127.0.0.1:9".parse().expect("valid")).expect("connects"),
            load: (endpoint.enter(), endpoint.open()),
            endpoint,
            _admitted: admitted(),
            started_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            moves: 0,
            outstanding: 0,
            burst: 1,
            introduction: Vec::new(),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16),
        Touch(u16),
        Remove(u16),
        RemoveOldest,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u16..8).prop_map(Step::Insert),
            (0u16..8).prop_map(Step::Touch),
            (0u16..8).prop_map(Step::Remove),
            Just(Step::RemoveOldest),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_order_is_that_of_a_plain_list(steps in steps()) {
            let mut sessions = Sessions::default();
            let mut model: Vec<(u16, u64)> = Vec::new();
            let client = |port| SocketAddr::new("10.0.0.1".parse().expect("valid"), port);
            for (now, step) in steps.into_iter().enumerate() {
                let now = now as u64 + 1;
                match step {
                    Step::Insert(port) if sessions.find(client(port), None).is_none() => {
                        sessions.insert(session(port), now);
                        model.push((port, now));
                    }
                    Step::Touch(port) => {
                        if let Some(number) = sessions.find(client(port), None) {
                            sessions.touch(number, now);
                            model.retain(|&(known, _)| known != port);
                            model.push((port, now));
                        }
                    }
                    Step::Remove(port) => {
                        if let Some(number) = sessions.find(client(port), None) {
                            prop_assert_eq!(sessions.remove(number).expect("there").client.port(), port);
                            model.retain(|&(known, _)| known != port);
                        }
                    }
                    Step::RemoveOldest => {
                        if let Some((number, seen)) = sessions.oldest() {
                            let port = sessions.remove(number).expect("there").client.port();
                            prop_assert_eq!((port, seen), model.remove(0));
                        }
                    }
                    Step::Insert(_) => {}
                }
                prop_assert_eq!(sessions.len(), model.len());
                let oldest = sessions.oldest().map(|(_, seen)| seen);
                prop_assert_eq!(oldest, model.first().map(|&(_, seen)| seen));
                prop_assert_eq!(sessions.numbers().len(), model.len());
                let by_age: Vec<_> = sessions.by_age().map(|(session, seen)| (session.client.port(), seen)).collect();
                prop_assert_eq!(&by_age, &model);
            }
        }
    }
}
