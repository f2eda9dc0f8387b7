//! Taking connections from the edge: messages with a socket each, off the handoff queue.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use weirgate_shared::handoff::{HEADER_BYTES, Handoff};
use weirgate_shared::net::{recv_with_fd, watch_readable};
use weirgate_shared::reason::Reason;

use crate::connection;
use crate::plane::Gateway;

/// Connections taken before those that are open get their turn.
const BATCH: usize = 32;

/// Take the connections of an edge worker until its queue is closed.
pub(crate) async fn serve(gateway: Rc<Gateway>, edge: usize, socket: OwnedFd) {
    let Ok(socket) = watch_readable(socket) else { return };
    let mut buffer = [0u8; HEADER_BYTES];
    while let Ok(mut ready) = socket.readable().await {
        let mut taken = 0;
        while taken < BATCH {
            match recv_with_fd(socket.as_fd(), &mut buffer) {
                Ok((0, None)) => return,
                Ok((length, fd)) => {
                    if let Some(header) = Handoff::decode(&buffer[..length]) {
                        // Counted before the queue is shorter: a drain must not miss it between the two.
                        let live = gateway.enter(edge, &header);
                        match fd {
                            Some(fd) => {
                                tokio::task::spawn_local(connection::serve(Rc::clone(&gateway), header, live, fd));
                            }
                            // The kernel drops a socket that finds no descriptor here: the client is reset.
                            None => gateway.totals.count_reason(Reason::Exhausted),
                        }
                    }
                    gateway.page.count_taken(gateway.index);
                    taken += 1;
                }
                Err(_) => {
                    ready.clear_ready();
                    break;
                }
            }
        }
        drop(ready);
        if taken == BATCH {
            tokio::task::yield_now().await;
        }
    }
}
