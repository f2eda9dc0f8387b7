//! A place at an endpoint: at once where there is one, otherwise in the pool's queue, for a while.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::Interest;
use tokio::net::TcpStream;
use weirgate_shared::balance::Choice;
use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::net::peek;
use weirgate_shared::place::Ticket;
use weirgate_shared::pool::Pool;
use weirgate_shared::reason::Reason;

use crate::reception::Socket;

/// What came of looking for a place.
pub(crate) struct Seat {
    /// The client's; `None` when it could not be watched while it waited.
    pub(crate) socket: Option<Socket>,
    /// The one to go by from now on: it may be newer than the one that was asked for.
    pub(crate) pool: Rc<Pool>,
    /// The member that has room; `None` where there is no limit, so nothing was chosen yet.
    pub(crate) found: Result<Option<usize>, Reason>,
    pub(crate) waited_us: u64,
}

/// Find a member of `pool` with room for one more connection, and wait for it behind those who came before.
pub(crate) async fn find_seat(socket: Socket, pool: Rc<Pool>, choice: &Choice<'_>, deadline: &Deadline) -> Seat {
    let seat = |socket, pool, found, waited_us| Seat { socket, pool, found, waited_us };
    if pool.settings.max_connections == 0 {
        return seat(Some(socket), pool, Ok(None), 0);
    }
    if pool.queue.is_empty() {
        match pick(&pool, choice) {
            Err(Reason::PoolOverloaded) => {}
            picked => return seat(Some(socket), pool, picked.map(Some), 0),
        }
    }
    let Some(ticket) = pool.queue.join(pool.settings.queue_size) else {
        return seat(Some(socket), pool, Err(Reason::QueueFull), 0);
    };
    let began_us = clock::monotonic_us();
    let Ok(stream) = socket.watch() else { return seat(None, pool, Err(Reason::Exhausted), 0) };
    deadline.set(pool.settings.queue_timeout_ms);
    let found = wait(&ticket, &pool, &stream, choice, deadline).await;
    deadline.clear();
    let waited_us = clock::monotonic_us() - began_us;
    let socket = Some(Socket::Watched(stream));
    match found {
        Ok((pool, index)) => seat(socket, pool, Ok(Some(index)), waited_us),
        Err(reason) => seat(socket, pool, Err(reason), waited_us),
    }
}

fn pick(pool: &Pool, choice: &Choice<'_>) -> Result<usize, Reason> {
    pool.pick_with_room(&|_| true, &|index| pool.has_room(index), choice)
}

async fn wait(
    ticket: &Ticket,
    pool: &Rc<Pool>,
    stream: &TcpStream,
    choice: &Choice<'_>,
    deadline: &Deadline,
) -> Result<(Rc<Pool>, usize), Reason> {
    let mut gone = pin!(gone(stream));
    poll_fn(|context| {
        if gone.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        while ticket.poll_turn(context).is_ready() {
            let newest = pool.queue.newest().unwrap_or_else(|| Rc::clone(pool));
            match pick(&newest, choice) {
                Err(Reason::PoolOverloaded) => {}
                picked => return Poll::Ready(picked.map(|index| (newest, index))),
            }
        }
        deadline
            .poll_expired(context)
            .map(|()| Err(if deadline.ended() { Reason::Draining } else { Reason::PoolOverloaded }))
    })
    .await
}

/// Ready when nobody is there to be served any more: the connection is reset, or it has ended without a byte.
/// A client that has sent something and closed its side may well wait for an answer.
async fn gone(stream: &TcpStream) {
    loop {
        if stream.ready(Interest::READABLE).await.is_err() {
            return;
        }
        match stream.try_io(Interest::READABLE, || peek(stream.as_fd(), &mut [0])) {
            Ok(0) => return,
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    let _ = stream.ready(Interest::ERROR).await;
}
