//! Whom a connection is from, as a PROXY header in front of it says.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::net::TcpStream;
use weirgate_shared::cidr::canonical;
use weirgate_shared::connection_id::ConnectionId;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::handoff::listener_key;
use weirgate_shared::proxy_header::{self, Parsed, TLV_LISTENER, TLV_UNIQUE_ID};

use crate::buffer::Buffer;

/// What a PROXY header says.
pub(crate) struct Said {
    pub(crate) client: Option<SocketAddr>,
    /// The id in an edge's log.
    pub(crate) id: Option<ConnectionId>,
    /// The key of the edge's listener.
    pub(crate) listener: Option<u64>,
}

/// Read the header that a connection must begin with; what follows it stays in `early`.
pub(crate) async fn read_proxy_header(
    socket: &mut TcpStream,
    early: &mut Buffer,
    deadline: &Deadline,
) -> Result<Said, ()> {
    loop {
        match proxy_header::parse(early.bytes()) {
            Parsed::Complete { length, addresses } => {
                let value = |kind| proxy_header::value_of(&early.bytes()[..length], kind);
                let said = Said {
                    client: addresses.map(|(client, _)| SocketAddr::new(canonical(client.ip()), client.port())),
                    id: value(TLV_UNIQUE_ID).and_then(ConnectionId::from_hex),
                    listener: value(TLV_LISTENER).and_then(|name| Some(listener_key(std::str::from_utf8(name).ok()?))),
                };
                early.consume(length);
                return Ok(said);
            }
            Parsed::Invalid => return Err(()),
            Parsed::Incomplete => {}
        }
        let count = poll_fn(|context| {
            let mut target = tokio::io::ReadBuf::new(early.space());
            match tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut *socket), context, &mut target) {
                Poll::Ready(result) => Poll::Ready(result.map(|()| target.filled().len()).map_err(|_| ())),
                Poll::Pending => deadline.poll_expired(context).map(|()| Err(())),
            }
        })
        .await?;
        if count == 0 {
            return Err(());
        }
        early.filled(count);
    }
}
