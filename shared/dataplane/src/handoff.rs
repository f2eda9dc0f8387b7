//! The message that travels with a connection from the edge to a gateway.
//!
//! Fixed size, little-endian, one per `SOCK_SEQPACKET` datagram, with exactly one fd beside it.
//! In the other direction a gateway tells which tracked connections it has closed: a message of
//! 16-byte ids, so that the edge can hold limits on concurrent connections that it no longer carries.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::connection_id::ConnectionId;

/// Size of an encoded header in bytes.
pub const HEADER_BYTES: usize = 100;
const MAGIC: [u8; 4] = *b"WGH1";
const VERSION: u16 = 2;
const FLAG_TRACKED: u16 = 1;
/// The most ids in one message of closed connections.
pub const CLOSED_IDS: usize = 64;

/// What a gateway learns about a connection besides its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handoff {
    /// [`listener_key`] of the listener's name: stable across reloads, unlike an index.
    pub listener: u64,
    /// The id in both tiers' logs.
    pub connection_id: ConnectionId,
    /// `clock::monotonic_us` at accept.
    pub accepted_us: u64,
    /// The gateway has to tell when it is closed.
    pub tracked: bool,
    /// The client: the peer itself, or whom it named in a PROXY header that the edge has read.
    pub client: SocketAddr,
    /// The address the client connected to.
    pub destination: SocketAddr,
    /// The other end of the socket.
    pub peer: SocketAddr,
}

/// FNV-1a of a listener's name.
#[must_use]
pub fn listener_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Handoff {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0u8; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(if self.tracked { FLAG_TRACKED } else { 0 }).to_le_bytes());
        out[8..16].copy_from_slice(&self.listener.to_le_bytes());
        out[16..32].copy_from_slice(&self.connection_id.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.accepted_us.to_le_bytes());
        put_address(&mut out[40..60], self.client);
        put_address(&mut out[60..80], self.destination);
        put_address(&mut out[80..100], self.peer);
        out
    }

    /// Read a header; `None` when it is not one of this version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != HEADER_BYTES || bytes[0..4] != MAGIC || bytes[4..6] != VERSION.to_le_bytes() {
            return None;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        Some(Self {
            listener: word(8)?,
            connection_id: ConnectionId(u128::from_le_bytes(bytes[16..32].try_into().ok()?)),
            accepted_us: word(32)?,
            tracked: u16::from_le_bytes([bytes[6], bytes[7]]) & FLAG_TRACKED != 0,
            client: take_address(&bytes[40..60])?,
            destination: take_address(&bytes[60..80])?,
            peer: take_address(&bytes[80..100])?,
        })
    }
}

/// A message of closed connections.
#[must_use]
pub fn encode_closed(ids: &[ConnectionId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0.to_le_bytes()).collect()
}

/// The ids in a message of closed connections.
pub fn decode_closed(bytes: &[u8]) -> impl Iterator<Item = ConnectionId> {
    bytes.chunks_exact(16).filter_map(|id| Some(ConnectionId(u128::from_le_bytes(id.try_into().ok()?))))
}

fn put_address(out: &mut [u8], address: SocketAddr) {
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (4u8, ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => (6u8, ip),
    };
    out[0] = family;
    out[2..4].copy_from_slice(&address.port().to_le_bytes());
    out[4..20].copy_from_slice(&ip.octets());
}

fn take_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_le_bytes([bytes[2], bytes[3]]);
    let octets: [u8; 16] = bytes[4..20].try_into().ok()?;
    let ip = Ipv6Addr::from(octets);
    match bytes[0] {
        4 => Some(SocketAddr::new(IpAddr::V4(ip.to_ipv4_mapped()?), port)),
        6 => Some(SocketAddr::new(IpAddr::V6(ip), port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_reads_back_and_noise_does_not(
            listener in any::<u64>(), id in any::<u128>(), at in any::<u64>(), tracked in any::<bool>(),
            client in any::<(IpAddr, u16)>(), destination in any::<(IpAddr, u16)>(), peer in any::<(IpAddr, u16)>(),
            noise in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let header = Handoff {
                listener, connection_id: ConnectionId(id), accepted_us: at, tracked,
                client: SocketAddr::new(client.0, client.1),
                destination: SocketAddr::new(destination.0, destination.1),
                peer: SocketAddr::new(peer.0, peer.1),
            };
            prop_assert_eq!(Handoff::decode(&header.encode()), Some(header));
            prop_assert_eq!(Handoff::decode(&noise), None);
            let ids = [ConnectionId(id), ConnectionId(!id)];
            prop_assert!(decode_closed(&encode_closed(&ids)).eq(ids));
        }
    }
}
