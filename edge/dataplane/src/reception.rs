//! Connections that say something before they are delivered: listen to it, then choose where they go.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use weirgate_shared::clock;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::handoff::Handoff;
use weirgate_shared::net::close_with_reset;
use weirgate_shared::reason::Reason;

use crate::admit::Admitted;
use crate::config::Listener;
use crate::insight::{ClosedBy, StreamRecord};
use crate::listener::{Arrival, Slot};
use crate::opening::{Opening, refuse_name};
use crate::plane::Edge;
use crate::proxy::relay_stream;
use crate::server_names::Target;

/// A client's socket.
pub(crate) enum Socket {
    /// As it was accepted.
    New(OwnedFd),
    /// Watched by the runtime already.
    Watched(TcpStream),
}

impl Socket {
    pub(crate) fn watch(self) -> std::io::Result<TcpStream> {
        match self {
            Self::New(fd) => TcpStream::from_std(fd.into()),
            Self::Watched(stream) => Ok(stream),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::New(fd) => fd.as_fd(),
            Self::Watched(stream) => stream.as_fd(),
        }
    }
}

/// What is known of a connection.
pub(crate) struct Visit {
    pub(crate) id: ConnectionId,
    pub(crate) listener: Rc<Listener>,
    pub(crate) peer: SocketAddr,
    pub(crate) accepted_us: u64,
    pub(crate) opening: Opening,
}

/// What is held of a connection.
pub(crate) struct Held {
    pub(crate) socket: Socket,
    pub(crate) admitted: Admitted,
}

/// Part what is known of a connection just accepted from what is held of it.
pub(crate) fn part(arrival: Arrival) -> (Visit, Held) {
    let Arrival { listener, socket, client: peer, accepted_us, admitted } = arrival;
    let id = ConnectionId::next(clock::wall_ms());
    let visit = Visit { id, listener, peer, accepted_us, opening: Opening::of(peer) };
    (visit, Held { socket: Socket::New(socket), admitted })
}

/// Listen, choose, deliver.
pub(crate) async fn receive(edge: Rc<Edge>, slot: Rc<Slot>, arrival: Arrival) {
    let live = edge.enter();
    let deadline = edge.deadlines.register();
    let (mut visit, Held { socket, admitted }) = part(arrival);
    let Ok(mut stream) = socket.watch() else { return tell(&edge, &slot, &visit, Reason::Exhausted) };
    let read = visit.opening.read(&visit.listener, &stream, &deadline).await;
    let target = read.and_then(|()| {
        let named = visit.listener.names.as_ref().map(|names| names.find(visit.opening.server_name()).cloned());
        named.unwrap_or_else(|| visit.listener.pool.clone().map(Target::Pool)).ok_or(Reason::UnknownServerName)
    });
    match target {
        Ok(Target::Pool(pool)) => {
            drop(deadline);
            relay_stream(edge, slot, visit, Held { socket: Socket::Watched(stream), admitted }, pool).await;
        }
        Ok(Target::Gateways) => {
            drop((live, deadline));
            hand_over(&edge, &slot, &visit, admitted, stream).await;
        }
        Err(reason) => {
            let reason = if deadline.expired() && edge.closing.get() { Reason::Draining } else { reason };
            tell(&edge, &slot, &visit, reason);
            refuse(&mut stream, &visit.opening, reason, &deadline).await;
        }
    }
}

/// A name that is not served gets an alert; whatever else is wrong, a reset: it may not even be TLS.
async fn refuse(stream: &mut TcpStream, opening: &Opening, reason: Reason, deadline: &Deadline) {
    match (&opening.hello, reason) {
        (Some(hello), Reason::UnknownServerName) => refuse_name(stream, hello, deadline).await,
        (_, Reason::ClientGone) => {}
        _ => close_with_reset(stream.as_fd()),
    }
}

fn tell(edge: &Edge, slot: &Slot, visit: &Visit, reason: Reason) {
    slot.stats.refuse(reason);
    let record = StreamRecord {
        reason: Some(reason),
        closed_by: if reason == Reason::ClientGone { ClosedBy::Client } else { ClosedBy::Weirgate },
        total_us: clock::monotonic_us() - visit.accepted_us,
        ..StreamRecord::of(visit)
    };
    record.write(&edge.log());
}

/// Give the socket, with its client hello still in it, to the thread that hands over.
async fn hand_over(edge: &Edge, slot: &Slot, visit: &Visit, admitted: Admitted, stream: TcpStream) {
    let settings = &visit.listener.settings;
    let tracked = settings.connections_per_source != 0 || settings.max_connections != 0;
    let header = Handoff {
        listener: visit.listener.key,
        connection_id: visit.id,
        accepted_us: visit.accepted_us,
        tracked,
        client: visit.opening.client,
        destination: visit.opening.destination.unwrap_or(slot.local),
        peer: visit.peer,
    };
    // No runtime may watch it any more: it lives on elsewhere.
    let Ok(socket) = stream.into_std() else { return };
    let (place, given_back) = oneshot::channel();
    let lent = tracked.then(|| edge.lend());
    let posted = edge.acceptor.post(move |acceptor| acceptor.deliver(header, socket.into(), tracked.then_some(place)));
    if posted.is_ok() && tracked {
        // The limits are this thread's: the place is kept until the gateway tells of the end.
        let _ = given_back.await;
    }
    drop((lent, admitted));
}
