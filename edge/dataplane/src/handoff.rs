//! Deliver by handoff: the accepted socket goes to a gateway, and the edge leaves the byte path.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use weirgate_shared::balance::Random;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::handoff::{CLOSED_IDS, Handoff, decode_closed};
use weirgate_shared::load_page::LoadPage;
use weirgate_shared::net::{SentFd, recv_with_fd, send_with_fd};
use weirgate_shared::succession::PlaceRecord;

use crate::admit::Admitted;
use crate::insight::HandoffStats;
use crate::select::candidates;

/// A connection to be given away.
pub(crate) struct Parcel {
    pub(crate) header: Handoff,
    pub(crate) socket: OwnedFd,
    /// What holds its place in the listener's limits.
    pub(crate) place: Place,
}

/// A connection's place in a listener's limits, given back when dropped.
pub(crate) enum Place {
    /// On this thread.
    Held { _admitted: Admitted },
    /// On the thread that accepted it, which waits for this to go. `None` = there it is gone already.
    Lent { _told: Option<oneshot::Sender<()>> },
}

/// A connection whose end its gateway will tell.
struct Tracked {
    /// The how-manieth that the gateway was sent.
    number: u64,
    listener: u64,
    source: IpAddr,
    _place: Place,
}

struct Gateway {
    socket: OwnedFd,
    tracked: RefCell<FxHashMap<ConnectionId, Tracked>>,
    /// The incarnation of the gateway that holds them.
    incarnation: Cell<u64>,
}

/// The sending ends, by gateway index.
pub(crate) struct Gateways {
    page: LoadPage,
    members: Vec<Gateway>,
    random: Random,
    order: RefCell<Vec<usize>>,
    pub(crate) stats: HandoffStats,
    /// The successor has the places, and hears of the ends.
    succeeded: Cell<bool>,
}

impl Gateways {
    pub(crate) fn new(page: LoadPage, sockets: Vec<OwnedFd>, seed: u64) -> Self {
        let gateway = |(index, socket)| Gateway {
            socket,
            tracked: RefCell::default(),
            incarnation: Cell::new(page.incarnation(index)),
        };
        Self {
            members: sockets.into_iter().enumerate().map(gateway).collect(),
            page,
            random: Random::seeded(seed),
            order: RefCell::default(),
            stats: HandoffStats::default(),
            succeeded: Cell::new(false),
        }
    }

    /// In the order of their index.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.members.iter().map(|gateway| gateway.socket.as_fd())
    }

    /// Give a connection to a gateway; it comes back when every queue is full.
    pub(crate) fn deliver(&self, mut parcel: Parcel) -> Option<Parcel> {
        // Its end would be told to the successor, which does not know it.
        parcel.header.tracked &= !self.succeeded.get();
        let bytes = parcel.header.encode();
        let mut order = self.order.borrow_mut();
        candidates(&self.page, self.members.len(), &self.random, &mut order);
        for &index in order.iter() {
            let gateway = &self.members[index];
            match send_with_fd(gateway.socket.as_fd(), &bytes, parcel.socket.as_fd()) {
                Ok(SentFd::Sent) => {
                    let number = self.page.count_sent(index);
                    self.stats.sent.add_one();
                    if parcel.header.tracked {
                        let Parcel { header, place, .. } = parcel;
                        let tracked =
                            Tracked { number, listener: header.listener, source: header.peer.ip(), _place: place };
                        gateway.tracked.borrow_mut().insert(header.connection_id, tracked);
                    }
                    return None;
                }
                Ok(SentFd::Full | SentFd::Gone) | Err(_) => self.stats.queue_full.add_one(),
            }
        }
        self.stats.stalled.add_one();
        Some(parcel)
    }

    /// Read what gateway `index` tells of closed connections.
    pub(crate) fn read_closed(&self, index: usize) {
        let Some(gateway) = self.members.get(index) else { return };
        let mut buffer = [0u8; CLOSED_IDS * 16];
        // The supervisor holds the other end too, so there is no end of file while the node lives.
        while let Ok((length @ 1.., _)) = recv_with_fd(gateway.socket.as_fd(), &mut buffer) {
            let mut tracked = gateway.tracked.borrow_mut();
            for id in decode_closed(&buffer[..length]) {
                tracked.remove(&id);
            }
        }
    }

    /// A gateway whose process has ended holds nothing any more.
    pub(crate) fn forget_dead(&self) {
        for (index, gateway) in self.members.iter().enumerate() {
            let incarnation = self.page.incarnation(index);
            if gateway.incarnation.replace(incarnation) != incarnation {
                // What it had not taken yet is its successor's.
                let taken = self.page.taken_at_end(index);
                gateway.tracked.borrow_mut().retain(|_, tracked| tracked.number > taken);
            }
        }
    }

    /// What a successor has to know of connections that hold places.
    pub(crate) fn records(&self) -> Vec<PlaceRecord> {
        self.forget_dead();
        let mut records = Vec::new();
        for (index, gateway) in self.members.iter().enumerate() {
            records.extend(gateway.tracked.borrow().iter().map(|(id, tracked)| PlaceRecord {
                gateway: index,
                incarnation: gateway.incarnation.get(),
                id: String::from_utf8_lossy(&id.hex()).into_owned(),
                number: tracked.number,
                listener: tracked.listener,
                source: tracked.source,
            }));
        }
        records
    }

    /// The successor has taken over: it holds the places.
    pub(crate) fn succeed(&self) {
        self.succeeded.set(true);
        self.members.iter().for_each(|gateway| gateway.tracked.borrow_mut().clear());
    }

    /// Take over a place from the predecessor. `hold` takes it in this process's limits.
    pub(crate) fn inherit(&self, record: &PlaceRecord, hold: impl FnOnce() -> Option<Place>) {
        self.forget_dead();
        let Some(gateway) = self.members.get(record.gateway) else { return };
        // Its gateway's process may have ended since the predecessor looked.
        let ended = gateway.incarnation.get() != record.incarnation;
        if ended && record.number <= self.page.taken_at_end(record.gateway) {
            return;
        }
        if let (Some(id), Some(place)) = (ConnectionId::from_hex(record.id.as_bytes()), hold()) {
            let PlaceRecord { number, listener, source, .. } = *record;
            gateway.tracked.borrow_mut().insert(id, Tracked { number, listener, source, _place: place });
        }
    }
}
