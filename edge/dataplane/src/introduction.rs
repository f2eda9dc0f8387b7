//! Introducing a connection to its endpoint: a PROXY header in front of the client's bytes.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use tokio::net::TcpStream;
use weirgate_shared::cidr::canonical;
use weirgate_shared::net::receive;
use weirgate_shared::proxy_header_write;
use weirgate_shared::snapshot::{Pool, ProxyProtocol};

use crate::reception::Visit;

/// The client's bytes that may go in the header's segment, where nothing limits them.
pub(crate) const FIRST_BYTES: usize = 8 * 1024;

/// What goes to the endpoint first.
#[derive(Default)]
pub(crate) struct Introduction {
    /// The header, and what the client has sent already. It is sent at once, since the endpoint may
    /// be the one that speaks first.
    pub(crate) bytes: Vec<u8>,
    /// How much of it is the header.
    pub(crate) header_bytes: u64,
}

impl Introduction {
    /// With at most `first_bytes` of the client's own.
    pub(crate) fn of(pool: &Pool, visit: &Visit, client: &TcpStream, first_bytes: usize) -> Self {
        let mut bytes = Vec::new();
        let (version, opening) = (pool.proxy_protocol, &visit.opening);
        if version == ProxyProtocol::Off {
            return Self::default();
        }
        let local = || client.local_addr().ok().map(|local| SocketAddr::new(canonical(local.ip()), local.port()));
        let header = proxy_header_write::Introduction {
            addresses: opening.destination.or_else(local).map(|destination| (opening.client, destination)),
            unique_id: &visit.id.hex(),
            authority: opening.server_name(),
            alpn: opening.only_protocol(),
            listener: pool.gateways.then_some(visit.listener.settings.name.as_str()),
        };
        header.write(version, &mut bytes);
        let header_bytes = bytes.len() as u64;
        if first_bytes > 0 {
            receive(client.as_fd(), &mut bytes, first_bytes);
        }
        Self { bytes, header_bytes }
    }
}
