//! Deliver by proxy: a `tcp` or `tls` connection is relayed to an endpoint of its pool.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use weirgate_shared::balance::Choice;
use weirgate_shared::clock;
use weirgate_shared::connect::connect_endpoint;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::net::{
    AcceptError, accept, close_with_reset, is_readable, keep_alive, path_facts, watch_readable,
};
use weirgate_shared::place::Place;
use weirgate_shared::pool::Pool;
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::{Bounds, End, Side, relay_throttled};

use crate::insight::{ClosedBy, StreamRecord};
use crate::introduction::{FIRST_BYTES, Introduction};
use crate::listener::{Arrival, Slot};
use crate::plane::Edge;
use crate::reception::{self, Held, Socket, Visit};
use crate::seat::find_seat;
use crate::streams::Tie;

/// Connections taken before other sockets get their turn.
const BATCH: usize = 64;
/// Connections in one go after which more are expected.
const CROWD: usize = 4;
/// A stream shorter than this was not held up on its way (a lost segment takes 200 ms, and a slow path some round
/// trips): asking the kernel would cost many short streams a fiftieth of all they cost, and tell nothing.
const TELLING_US: u64 = 20_000;
/// How long accepting pauses when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(20);

/// Accept from `socket`, the slot's own or a copy of it, until the task is aborted.
pub(crate) async fn serve(edge: Rc<Edge>, slot: Rc<Slot>, socket: OwnedFd) {
    let Ok(socket) = watch_readable(socket) else { return };
    while let Ok(mut ready) = socket.readable().await {
        let mut taken = 0;
        let pause = loop {
            match accept(socket.as_fd()) {
                Ok(accepted) => {
                    if let Some(arrival) = slot.judge(accepted) {
                        deliver(&edge, &slot, arrival);
                    }
                }
                Err(AcceptError::Aborted) => {}
                Err(AcceptError::Empty) => {
                    ready.clear_ready();
                    break None;
                }
                Err(AcceptError::Exhausted(_)) => {
                    slot.stats.exhausted.add_one();
                    break Some(PAUSE);
                }
                Err(AcceptError::Broken(_)) => return,
            }
            taken += 1;
            if taken == BATCH {
                break Some(Duration::ZERO);
            }
            // An accept that finds nothing makes a socket and a file first: asking costs a fifth of it.
            // In a crowd it is not worth asking every time.
            if taken < CROWD && !is_readable(socket.as_fd()) {
                ready.clear_ready();
                break None;
            }
        };
        drop(ready);
        match pause {
            None => {}
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => tokio::time::sleep(pause).await,
        }
    }
}

fn deliver(edge: &Rc<Edge>, slot: &Rc<Slot>, arrival: Arrival) {
    let (edge, slot) = (Rc::clone(edge), Rc::clone(slot));
    match arrival.listener.pool.clone() {
        Some(pool) if !arrival.listener.reads_opening(arrival.client.ip()) => {
            let (visit, held) = reception::part(arrival);
            tokio::task::spawn_local(relay_stream(edge, slot, visit, held, pool));
        }
        _ => {
            tokio::task::spawn_local(reception::receive(edge, slot, arrival));
        }
    }
}

/// Connect, relay, and tell what came of it.
pub(crate) async fn relay_stream(edge: Rc<Edge>, slot: Rc<Slot>, visit: Visit, held: Held, pool: Rc<Pool>) {
    let deadline = edge.deadlines.register();
    let _live = edge.enter();
    let stats = &slot.stats;
    let settings = &visit.listener.settings;
    let client = visit.opening.client;
    let choice = Choice { random: &edge.random, client };
    let Held { socket, admitted } = held;
    let seat = find_seat(socket, pool, &choice, &deadline).await;
    let pool = seat.pool;
    let mut record = StreamRecord { pool: &pool.settings.name, queue_us: seat.waited_us, ..StreamRecord::of(&visit) };
    // A gateway has timeouts of its own for all that a client can leave undone.
    let gateways = pool.settings.gateways;
    let connect_timeout_ms = if gateways { pool.settings.connect_timeout_ms } else { settings.connect_timeout_ms };
    let idle_ms = if gateways { 0 } else { settings.idle_timeout_ms };
    let bounds = Bounds { idle_ms, ..Bounds::default() };
    let connected = match seat.found {
        Ok(first) => connect(&pool, first, &choice, connect_timeout_ms, &deadline).await,
        Err(reason) => Err(reason),
    };
    match connected {
        Ok((index, mut upstream, _place, tie)) => {
            let endpoint = &pool.members[index].endpoint;
            record.endpoint = &endpoint.address;
            let connected_us = clock::monotonic_us();
            record.connect_us = connected_us - visit.accepted_us - seat.waited_us;
            let _in_flight = endpoint.enter();
            if gateways {
                keep_alive(upstream.as_fd());
            }
            match seat.socket.map(Socket::watch) {
                Some(Ok(mut client)) => {
                    let throttles = slot.throttles(&visit.listener, visit.opening.client.ip());
                    let own = if throttles.forth.is_some() { 0 } else { FIRST_BYTES };
                    let first = Introduction::of(&pool.settings, &visit, &client, own);
                    let read = (first.bytes, Vec::new());
                    let outcome = relay_throttled(&mut client, &mut upstream, read, &deadline, bounds, throttles).await;
                    record.held_us = outcome.held_us;
                    record.bytes_in = outcome.forth.saturating_sub(first.header_bytes);
                    record.bytes_out = outcome.back;
                    record.reason = end_reason(outcome.end, edge.closing.get());
                    record.first_byte_us = outcome.first_back_us.map_or(0, |at_us| at_us - visit.accepted_us);
                    record.closed_by = match outcome.ended_first {
                        Some(Side::First) => ClosedBy::Client,
                        Some(Side::Second) => ClosedBy::Endpoint,
                        None => ClosedBy::Weirgate,
                    };
                    if clock::monotonic_us() - visit.accepted_us >= TELLING_US {
                        let (near, far) = (path_facts(client.as_fd()), path_facts(upstream.as_fd()));
                        record.paths = Some((near, far));
                        stats.retransmits.0.add(near.retransmits.into());
                        stats.retransmits.1.add(far.retransmits.into());
                    }
                    if let Some(reason) = tie.broken(&deadline, outcome.end, edge.closing.get()) {
                        close_with_reset(client.as_fd());
                        close_with_reset(upstream.as_fd());
                        record.reason = Some(reason);
                    } else if let Some(hung_up_us) = outcome.hung_up_us {
                        pool.closed_early(index, hung_up_us.saturating_sub(connected_us));
                    } else if outcome.back > 0 && outcome.end == End::Finished {
                        endpoint.answered();
                    }
                }
                _ => record.client_has_gone(),
            }
        }
        Err(reason) => {
            // A FIN would look like an empty answer; a reset says that there was none.
            if let Some(socket) = seat.socket {
                close_with_reset(socket.as_fd());
            }
            record.reason = Some(reason);
        }
    }
    drop(admitted);
    record.total_us = clock::monotonic_us() - visit.accepted_us;
    stats.bytes_in.add(record.bytes_in);
    stats.bytes_out.add(record.bytes_out);
    stats.duration.record(record.total_us);
    if let Some(reason) = record.reason {
        stats.refuse(reason);
    }
    record.write(&edge.log());
}

fn end_reason(end: End, closing: bool) -> Option<Reason> {
    match end {
        End::Finished => None,
        End::Idle if closing => Some(Reason::Draining),
        End::Idle => Some(Reason::IdleTimeout),
        End::FirstReset => Some(Reason::ClientReset),
        End::SecondReset => Some(Reason::UpstreamReset),
    }
}

/// A connection to the `first` endpoint, or a chosen one, or to the next one when that refuses or does not answer.
async fn connect(
    pool: &Pool,
    mut first: Option<usize>,
    choice: &Choice<'_>,
    timeout_ms: u64,
    deadline: &Deadline,
) -> Result<(usize, TcpStream, Place, Tie), Reason> {
    let mut tried: Vec<usize> = Vec::new();
    let mut failure = Reason::NoEndpoint;
    for _ in 0..=pool.settings.retries {
        let untried = |index: usize| !tried.contains(&index);
        let picked = match first.take() {
            Some(index) => Ok(index),
            None => pool.pick_with_room(&untried, &|index| pool.has_room(index), choice),
        };
        let index = match picked {
            Ok(index) => index,
            Err(reason) if tried.is_empty() => return Err(reason),
            Err(_) => return Err(failure),
        };
        let endpoint = &pool.members[index].endpoint;
        // Counted from the attempt on: a burst must not see the count of before it.
        let place = pool.open(index);
        let tie = Tie::to(endpoint);
        match connect_endpoint(endpoint, timeout_ms, deadline).await {
            Ok(stream) => {
                endpoint.connected();
                tie.fasten(pool.settings.on_down, deadline);
                return Ok((index, stream, place, tie));
            }
            Err(reason) => failure = reason,
        }
        pool.connect_failed(index, failure);
        tried.push(index);
    }
    Err(failure)
}
