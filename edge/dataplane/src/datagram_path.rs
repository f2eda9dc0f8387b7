//! The way of a datagram: from a client through its session to an endpoint, and back.
//!
//! Datagrams come and go in batches of up to 32. A session is one connected socket, so that
//! answers can only come from its endpoint, and the kernel tells of an endpoint that is gone (ICMP).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;

use weirgate_shared::balance::{Choice, Random};
use weirgate_shared::cidr::canonical;
use weirgate_shared::clock;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::endpoint::{Health, connect_reason};
use weirgate_shared::net::{BATCH, DatagramBatch, Destination, coalesce, connect_datagram, reconnect_datagram};
use weirgate_shared::pool::Pool;
use weirgate_shared::proxy_header_write::datagram_header;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::ProxyProtocol;

use crate::admit::Way;
use crate::config::Listener;
use crate::datagrams::{Datagrams, Door};
use crate::insight::ClosedBy;
use crate::sessions::Session;

/// Batches taken from a listening socket before others get their turn.
const ROUNDS: usize = 4;
/// The most datagrams taken from one endpoint's socket at once.
const BURST: usize = 16;
/// A session used so recently is not ended to make room for another.
const ACTIVE_MS: u64 = 1_000;

impl Datagrams {
    /// Datagrams of clients: find or open each one's session and pass them on.
    pub(crate) fn take_from_clients(&mut self, number: u32) {
        let doors = Rc::clone(&self.doors);
        let mut doors = doors.borrow_mut();
        let Some(door) = doors.get_mut(&number) else { return };
        for _ in 0..ROUNDS {
            let Ok(count) = self.batch.receive(door.slot.socket.as_fd(), 0, BATCH) else { return };
            let mut at = 0;
            while at < count {
                let (client, local) = self.origin(at, door.wildcard);
                let end =
                    (at + 1..count).find(|&next| self.origin(next, door.wildcard) != (client, local)).unwrap_or(count);
                if let Some(client) = client {
                    self.forward(number, door, client, local, at, end);
                }
                at = end;
            }
            if count < BATCH {
                return;
            }
        }
    }

    fn origin(&self, slot: usize, wildcard: bool) -> (Option<SocketAddr>, Option<IpAddr>) {
        let received = self.batch.datagram(slot).1;
        (received.peer, if wildcard { received.destination } else { None })
    }

    /// Pass the slots `from..end` of one client on.
    fn forward(
        &mut self,
        number: u32,
        door: &mut Door,
        client: SocketAddr,
        local: Option<IpAddr>,
        from: usize,
        end: usize,
    ) {
        let stats = Rc::clone(&door.slot.stats);
        let (mut bytes, mut datagrams) = (0, 0);
        for slot in from..end {
            let received = self.batch.datagram(slot).1;
            bytes += received.length as u64;
            datagrams += received.count();
        }
        stats.bytes_in.add(bytes);
        stats.datagrams_in.add(datagrams);
        let listener = door.slot.listener();
        let admitted = door.slot.admit_datagrams(client.ip(), datagrams);
        let mut end = end;
        if admitted < datagrams {
            stats.drop_datagrams(Reason::SourceRate, datagrams - admitted);
            (end, bytes) = keep_first(&mut self.batch, from, admitted);
            datagrams = admitted;
            if datagrams == 0 {
                return;
            }
        }
        if listener.settings.bytes_in_per_source.is_some() {
            let sizes = (from..end).flat_map(|slot| self.batch.datagram(slot).1.sizes());
            let passing = door.slot.admit_bytes(client.ip(), Way::In, sizes);
            if passing < datagrams {
                stats.drop_datagrams(Reason::SourceBytes, datagrams - passing);
                (end, bytes) = keep_first(&mut self.batch, from, passing);
                datagrams = passing;
                if datagrams == 0 {
                    return;
                }
            }
        }
        let found = door.sessions.find(client, local);
        let found = match found.map_or_else(|| self.open(number, door, &listener, client, local), Ok) {
            Ok(found) => found,
            Err(reason) => return stats.drop_datagrams(reason, datagrams),
        };
        door.sessions.touch(found, clock::coarse_ms());
        let Some(session) = door.sessions.get_mut(found) else { return };
        session.bytes_in += bytes;
        session.datagrams_in += datagrams;
        session.outstanding += datagrams * u64::from(listener.settings.responses);
        let Some(pool) = &listener.pool else { return };
        let gone = session.endpoint.health() == Health::Down || session.endpoint.ejected();
        let mut found = found;
        if gone || !pool.has(&session.endpoint) {
            match self.rehome(number, door, &listener, found) {
                Some(session) => found = session,
                None => return stats.drop_datagrams(Reason::NoEndpoint, datagrams),
            }
        }
        self.pass_on(number, door, &listener, pool, found, from..end);
    }

    /// Send the datagrams of some slots to their session's endpoint, or to another one when that is not there.
    fn pass_on(
        &mut self,
        number: u32,
        door: &mut Door,
        listener: &Rc<Listener>,
        pool: &Pool,
        mut found: u32,
        slots: Range<usize>,
    ) {
        let stats = Rc::clone(&door.slot.stats);
        let introduced = pool.settings.proxy_protocol != ProxyProtocol::Off;
        let mut tries = pool.settings.retries;
        // The slot, and within it the number of the datagram where each is sent by itself.
        let (mut at, mut within) = (slots.start, 0);
        while at < slots.end {
            let Some(session) = door.sessions.get_mut(found) else { return };
            let sent = if introduced {
                session.introduce(door.slot.local);
                self.batch.send_prefixed(session.socket.as_fd(), at, within, &session.introduction).map(|sent| {
                    (at, within) = self.beyond(at, within + sent.max(1));
                })
            } else {
                let mut places = [(0, Destination::default()); BATCH];
                for (place, slot) in places.iter_mut().zip(at..slots.end) {
                    place.0 = slot;
                }
                self.batch.send(session.socket.as_fd(), &places[..slots.end - at]).map(|sent| at += sent.max(1))
            };
            let Err(error) = sent else { continue };
            // A refusal is of an earlier datagram, and this one was not sent: it goes elsewhere.
            let reason = failure(&error);
            if matches!(reason, Reason::ConnectRefused | Reason::ConnectFailed) {
                failed(pool, session, reason);
                if tries > 0 {
                    tries -= 1;
                    let Some(other) = self.rehome(number, door, listener, found) else {
                        let left: u64 = (at..slots.end).map(|slot| self.batch.datagram(slot).1.count()).sum();
                        return stats.drop_datagrams(Reason::NoEndpoint, left - within);
                    };
                    found = other;
                    continue;
                }
            }
            if introduced {
                stats.drop_datagrams(reason, 1);
                (at, within) = self.beyond(at, within + 1);
                continue;
            }
            let received = self.batch.datagram(at).1;
            if received.segment_bytes == 0 || !self.batch.send_apart(session.socket.as_fd(), at, Destination::default())
            {
                stats.drop_datagrams(reason, received.count());
            }
            at += 1;
        }
    }

    /// Where datagram `within` of the slot `at` is, once that slot may be done.
    fn beyond(&self, at: usize, within: u64) -> (usize, u64) {
        if within < self.batch.datagram(at).1.count() { (at, within) } else { (at + 1, 0) }
    }

    /// Let a session go to another endpoint, if there is one. `None` = it has none at all.
    fn rehome(&mut self, number: u32, door: &mut Door, listener: &Rc<Listener>, session: u32) -> Option<u32> {
        let pool = listener.pool.as_ref()?;
        let known = door.sessions.get_mut(session)?;
        match move_elsewhere(known, pool, &self.random) {
            Move::Done => Some(session),
            Move::Nowhere => pool.has(&known.endpoint).then_some(session),
            Move::NewSocket => {
                let (client, local) = (known.client, known.local);
                self.end(door, session, ClosedBy::Weirgate, None);
                self.open(number, door, listener, client, local).ok()
            }
        }
    }

    /// A new session, or why there is none.
    fn open(
        &mut self,
        number: u32,
        door: &mut Door,
        listener: &Rc<Listener>,
        client: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<u32, Reason> {
        if self.draining_until_ms.is_some() {
            return Err(Reason::Draining);
        }
        let admitted = door.slot.admit(client.ip())?;
        let pool = listener.pool.as_ref().ok_or(Reason::PoolEmpty)?;
        if door.sessions.len() >= listener.settings.max_sessions as usize && !self.make_room(door) {
            return Err(Reason::SessionLimit);
        }
        let mut tried = Vec::new();
        let mut failed = Reason::NoEndpoint;
        for _ in 0..=pool.settings.retries {
            let index = match pick(pool, &tried, client, &self.random) {
                Ok(index) => index,
                Err(reason) if tried.is_empty() => return Err(reason),
                Err(_) => return Err(failed),
            };
            let endpoint = &pool.members[index].endpoint;
            let socket = match endpoint.next_address().map(|(address, _)| (address, connect_datagram(address))) {
                Some((_, Ok(socket))) => socket,
                Some((address, Err(error))) => {
                    failed = connect_reason(&error, address);
                    if failed == Reason::Exhausted {
                        door.slot.stats.exhausted.add_one();
                        if self.make_room(door) {
                            continue;
                        }
                        return Err(failed);
                    }
                    pool.connect_failed(index, failed);
                    tried.push(index);
                    continue;
                }
                None => {
                    tried.push(index);
                    continue;
                }
            };
            coalesce(socket.as_fd());
            let session_number = door.sessions.next_number();
            let token = u64::from(number) << 32 | (u64::from(session_number) + 1);
            self.poller.add(&socket, token).map_err(|_| Reason::Exhausted)?;
            door.slot.count_accepted();
            let session = Session {
                id: ConnectionId::next(clock::wall_ms()),
                client,
                local,
                socket,
                load: (endpoint.enter(), endpoint.open()),
                endpoint: Rc::clone(endpoint),
                _admitted: admitted,
                started_us: clock::monotonic_us(),
                bytes_in: 0,
                bytes_out: 0,
                datagrams_in: 0,
                datagrams_out: 0,
                moves: 0,
                outstanding: 0,
                burst: 1,
                introduction: Vec::new(),
            };
            door.sessions.insert(session, clock::coarse_ms());
            return Ok(session_number);
        }
        Err(failed)
    }

    /// End the session that was not used for the longest time, unless it is active.
    fn make_room(&self, door: &mut Door) -> bool {
        match door.sessions.oldest() {
            Some((oldest, seen_ms)) if seen_ms + ACTIVE_MS <= clock::coarse_ms() => {
                self.end(door, oldest, ClosedBy::Weirgate, Some(Reason::SessionEvicted));
                true
            }
            _ => false,
        }
    }

    /// Datagrams of one session's endpoint: collect them for the client.
    pub(crate) fn take_from_endpoint(&mut self, number: u32, session_number: u32) {
        if self.answers_of != number || self.answers.len() == BATCH {
            self.flush();
            self.answers_of = number;
        }
        let doors = Rc::clone(&self.doors);
        let mut doors = doors.borrow_mut();
        let Some(door) = doors.get_mut(&number) else { return };
        let stats = Rc::clone(&door.slot.stats);
        let Some(session) = door.sessions.get_mut(session_number) else { return };
        let first = self.answers.len();
        let count = match self.batch.receive(session.socket.as_fd(), first, session.burst) {
            Ok(count) => count,
            Err(error) => {
                let reason = failure(&error);
                if reason == Reason::ConnectRefused {
                    let listener = door.slot.listener();
                    if let Some(pool) = &listener.pool {
                        failed(pool, session, reason);
                        move_elsewhere(session, pool, &self.random);
                    }
                    stats.drop_datagrams(reason, 1);
                }
                return;
            }
        };
        session.burst = if count == session.burst { (count * 2).min(BURST) } else { 1 };
        let mut datagrams = 0;
        for slot in first..first + count {
            let received = self.batch.datagram(slot).1;
            stats.bytes_out.add(received.length as u64);
            datagrams += received.count();
        }
        let (client, mut end, mut passing) = (session.client, first + count, datagrams);
        if door.slot.listener().settings.bytes_out_per_source.is_some() {
            let sizes = (first..end).flat_map(|slot| self.batch.datagram(slot).1.sizes());
            passing = door.slot.admit_bytes(client.ip(), Way::Out, sizes);
            if passing < datagrams {
                stats.drop_datagrams(Reason::SourceBytes, datagrams - passing);
                (end, _) = keep_first(&mut self.batch, first, passing);
            }
        }
        for slot in first..end {
            session.bytes_out += self.batch.datagram(slot).1.length as u64;
            self.answers.push((slot, Destination { peer: Some(client), source: session.local }));
        }
        session.datagrams_out += passing;
        stats.datagrams_out.add(datagrams);
        let counted = session.outstanding > 0;
        session.outstanding = session.outstanding.saturating_sub(datagrams);
        let finished = counted && session.outstanding == 0;
        door.sessions.touch(session_number, clock::coarse_ms());
        if finished {
            self.end(door, session_number, ClosedBy::Endpoint, None);
        }
    }

    /// Send the collected answers.
    pub(crate) fn flush(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        if let Some(door) = self.doors.borrow().get(&self.answers_of) {
            let mut rest = &self.answers[..];
            while !rest.is_empty() {
                match self.batch.send(door.slot.socket.as_fd(), rest) {
                    Ok(sent) => rest = &rest[sent.max(1)..],
                    Err(error) => {
                        let (slot, destination) = rest[0];
                        let received = self.batch.datagram(slot).1;
                        let apart = received.segment_bytes != 0
                            && self.batch.send_apart(door.slot.socket.as_fd(), slot, destination);
                        if !apart {
                            door.slot.stats.drop_datagrams(failure(&error), received.count());
                        }
                        rest = &rest[1..];
                    }
                }
            }
        }
        self.answers.clear();
    }
}

/// Forget all but the first `count` datagrams of the slots from `from` on: where they end, and their bytes.
fn keep_first(batch: &mut DatagramBatch, from: usize, mut count: u64) -> (usize, u64) {
    let (mut slot, mut bytes) = (from, 0);
    while count > 0 {
        count -= batch.keep_first(slot, count);
        bytes += batch.datagram(slot).1.length as u64;
        slot += 1;
    }
    (slot, bytes)
}

fn pick(pool: &Pool, tried: &[usize], client: SocketAddr, random: &Random) -> Result<usize, Reason> {
    pool.pick_with_room(&|index| !tried.contains(&index), &|index| pool.has_room(index), &Choice { random, client })
}

impl Session {
    /// Know the PROXY header in front of its datagrams: `bound` is where its listener is.
    fn introduce(&mut self, bound: SocketAddr) {
        if self.introduction.is_empty() {
            let plain = |ip, port| SocketAddr::new(canonical(ip), port);
            let asked = plain(self.local.unwrap_or(bound.ip()), bound.port());
            self.introduction = datagram_header(plain(self.client.ip(), self.client.port()), asked);
        }
    }
}

/// The session's endpoint is not there.
fn failed(pool: &Pool, session: &Session, reason: Reason) {
    if let Some(index) = pool.index_of(&session.endpoint) {
        pool.connect_failed(index, reason);
    }
}

/// What came of sending a session elsewhere.
enum Move {
    Done,
    /// No other endpoint may be chosen.
    Nowhere,
    /// The other endpoint is of another address family.
    NewSocket,
}

/// Point a session at another endpoint of its pool.
fn move_elsewhere(session: &mut Session, pool: &Pool, random: &Random) -> Move {
    let current = pool.index_of(&session.endpoint);
    let Ok(index) = pick(pool, current.as_slice(), session.client, random) else { return Move::Nowhere };
    let endpoint = &pool.members[index].endpoint;
    let Some((address, _)) = endpoint.next_address() else { return Move::Nowhere };
    if reconnect_datagram(session.socket.as_fd(), address).is_err() {
        return Move::NewSocket;
    }
    session.load = (endpoint.enter(), endpoint.open());
    session.endpoint = Rc::clone(endpoint);
    session.moves += 1;
    Move::Done
}

/// What an error of a UDP socket means.
fn failure(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Reason::ConnectRefused,
        Some(libc::EMSGSIZE) => Reason::DatagramTooLarge,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Reason::SendBufferFull,
        _ => Reason::ConnectFailed,
    }
}
