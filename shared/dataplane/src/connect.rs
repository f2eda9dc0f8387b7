//! Connecting to an endpoint within a deadline.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Poll, ready};

use tokio::net::TcpStream;

use crate::deadline::Deadline;
use crate::endpoint::{Endpoint, connect_reason};
use crate::net::{connect, take_error};
use crate::reason::Reason;

/// Addresses of one name that are tried before the endpoint counts as unreachable.
const ADDRESSES: usize = 3;

/// An established connection; `TimedOut` after `timeout_ms` (0 = the kernel's own limit).
pub async fn connect_to(address: SocketAddr, timeout_ms: u64, deadline: &Deadline) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(connect(address)?.into())?;
    deadline.set(timeout_ms);
    let result = poll_fn(|context| {
        if stream.poll_write_ready(context).is_ready() {
            return Poll::Ready(take_error(stream.as_fd()));
        }
        ready!(deadline.poll_expired(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    deadline.clear();
    result.map(|()| stream)
}

/// A connection to `endpoint`: its address, or up to [`ADDRESSES`] of a name's, one after the other,
/// each within `timeout_ms`. The error tells of the last one tried that says something of the endpoint.
pub async fn connect_endpoint(endpoint: &Endpoint, timeout_ms: u64, deadline: &Deadline) -> Result<TcpStream, Reason> {
    let mut failure = None;
    let Some((mut address, count)) = endpoint.next_address() else { return Err(Reason::ConnectFailed) };
    for left in (0..count.min(ADDRESSES)).rev() {
        match connect_to(address, timeout_ms, deadline).await {
            Ok(stream) => return Ok(stream),
            // What the endpoint has done weighs more than what we lack for another of its addresses.
            Err(error) => match connect_reason(&error, address) {
                Reason::Exhausted if failure.is_some() => {}
                reason => failure = Some(reason),
            },
        }
        if left > 0
            && let Some((next, _)) = endpoint.next_address()
        {
            address = next;
        }
    }
    Err(failure.unwrap_or(Reason::ConnectFailed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::deadline::Deadlines;

    #[test]
    fn refusal_is_told_apart_from_success() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            clock::tick();
            let deadlines = Deadlines::default();
            let deadline = deadlines.register();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
            let address = listener.local_addr().expect("bound");
            assert!(connect_to(address, 1000, &deadline).await.is_ok());
            drop(listener);
            let error = connect_to(address, 1000, &deadline).await.expect_err("nobody listens");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
