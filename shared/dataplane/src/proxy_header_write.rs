//! PROXY headers as they are sent to endpoints, versions 1 and 2 (`proxy-protocol.txt` of its authors).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::proxy_header::{TLV_CRC32C, TLV_LISTENER, TLV_UNIQUE_ID, V2_SIGNATURE, crc32c};
use crate::snapshot::ProxyProtocol;

const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;
const TLV_ALPN: u8 = 0x01;
const TLV_AUTHORITY: u8 = 0x02;
/// The longest value that is sent: names have 255 bytes at most, and a header has to stay small.
const MAX_VALUE_BYTES: usize = 512;

/// What an endpoint is told of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Introduction<'a> {
    /// Client and destination; `None` = there are none, as on a Unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The id in the logs.
    pub unique_id: &'a [u8],
    /// The server name that the client asked for.
    pub authority: Option<&'a str>,
    /// The application protocol, where only one can be meant.
    pub alpn: Option<&'a [u8]>,
    /// The listener that it came in by: for gateways, not for endpoints.
    pub listener: Option<&'a str>,
}

impl Introduction<'_> {
    /// Append the header of this version; `Off` appends nothing.
    pub fn write(&self, version: ProxyProtocol, out: &mut Vec<u8>) {
        match version {
            ProxyProtocol::Off => {}
            ProxyProtocol::V1 => self.write_v1(out),
            ProxyProtocol::V2 => self.write_v2(out),
        }
    }

    /// §2.1.
    fn write_v1(&self, out: &mut Vec<u8>) {
        let written = match self.addresses.map(one_family) {
            None => out.write_all(b"PROXY UNKNOWN\r\n"),
            Some((client, destination)) => write!(
                out,
                "PROXY TCP{} {} {} {} {}\r\n",
                if client.is_ipv4() { 4 } else { 6 },
                client.ip(),
                destination.ip(),
                client.port(),
                destination.port()
            ),
        };
        debug_assert!(written.is_ok(), "a vector takes everything");
    }

    /// §2.2. The checksum comes last and is over everything before it, and over itself as zero.
    fn write_v2(&self, out: &mut Vec<u8>) {
        let start = out.len();
        push_start(out, STREAM, self.addresses);
        push_tlv(out, TLV_UNIQUE_ID, self.unique_id);
        push_tlv(out, TLV_AUTHORITY, self.authority.unwrap_or_default().as_bytes());
        push_tlv(out, TLV_ALPN, self.alpn.unwrap_or_default());
        push_tlv(out, TLV_LISTENER, self.listener.unwrap_or_default().as_bytes());
        push_tlv(out, TLV_CRC32C, &[0; 4]);
        put_length(&mut out[start..]);
        let checksum = crc32c(out[start..].iter().copied());
        let end = out.len();
        out[end - 4..].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The header in front of a datagram: version 2, since version 1 knows TCP only.
///
/// The addresses and nothing else: each datagram carries it, and must still fit into its path's packets.
/// UDP's own checksum covers it.
#[must_use]
pub fn datagram_header(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(52);
    push_start(&mut out, DATAGRAM, Some((client, destination)));
    put_length(&mut out);
    out
}

/// Signature, command, family, a length still to be put in, and the addresses.
fn push_start(out: &mut Vec<u8>, transport: u8, addresses: Option<(SocketAddr, SocketAddr)>) {
    out.extend_from_slice(V2_SIGNATURE);
    let addresses = addresses.map(one_family);
    // What is relayed is never LOCAL, even when its addresses cannot be told.
    let family = match addresses {
        None => 0x00,
        Some((client, _)) if client.is_ipv4() => 0x10 | transport,
        Some(_) => 0x20 | transport,
    };
    out.extend_from_slice(&[0x21, family, 0, 0]);
    if let Some((client, destination)) = addresses {
        push_ip(out, client.ip());
        push_ip(out, destination.ip());
        out.extend_from_slice(&client.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
    }
}

/// Put in how much follows the first 16 bytes.
fn put_length(header: &mut [u8]) {
    let length = (header.len() - 16) as u16; // four values at most, each bounded
    header[14..16].copy_from_slice(&length.to_be_bytes());
}

/// Both as IPv4, or both as IPv6: a header has one family.
fn one_family((client, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    };
    if client.is_ipv4() == destination.is_ipv4() { (client, destination) } else { (wide(client), wide(destination)) }
}

fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

/// Nothing for an empty value, or for one that no endpoint could expect.
fn push_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if !value.is_empty() && value.len() <= MAX_VALUE_BYTES {
        out.push(kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_header::{Parsed, V1_MAX_BYTES, parse, value_of};
    use proptest::prelude::*;

    fn header(version: ProxyProtocol, introduction: &Introduction<'_>) -> Vec<u8> {
        let mut out = b"before".to_vec();
        introduction.write(version, &mut out);
        out.split_off(6)
    }

    fn tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while let [kind, high, low, rest @ ..] = bytes {
            let (value, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            found.push((*kind, value.to_vec()));
            bytes = after;
        }
        found
    }

    #[test]
    fn a_header_says_what_is_known_and_nothing_else() {
        let addresses = Some(("192.0.2.1:5".parse().expect("valid"), "198.51.100.2:443".parse().expect("valid")));
        let full = Introduction {
            addresses,
            unique_id: b"id",
            authority: Some("a.example"),
            alpn: Some(b"h2"),
            ..Introduction::default()
        };
        assert_eq!(header(ProxyProtocol::Off, &full), b"");
        assert_eq!(header(ProxyProtocol::V1, &full), b"PROXY TCP4 192.0.2.1 198.51.100.2 5 443\r\n");
        let v2 = header(ProxyProtocol::V2, &full);
        assert_eq!(v2[12..28], [0x21, 0x11, 0, 41, 192, 0, 2, 1, 198, 51, 100, 2, 0, 5, 1, 0xbb]);
        let found = tlvs(&v2[28..]);
        assert_eq!(found[..3], [(5, b"id".to_vec()), (2, b"a.example".to_vec()), (1, b"h2".to_vec())]);
        assert_eq!((found.len(), found[3].0), (4, TLV_CRC32C));
        let nothing = Introduction::default();
        assert_eq!(header(ProxyProtocol::V1, &nothing), b"PROXY UNKNOWN\r\n");
        let v2 = header(ProxyProtocol::V2, &nothing);
        assert_eq!((&v2[12..16], v2.len()), (&[0x21, 0, 0, 7][..], 23));
        assert!(matches!(parse(&v2), Parsed::Complete { length: 23, addresses: None }));
    }

    #[test]
    fn a_datagram_s_header_is_its_addresses_and_no_more() {
        let v4 = ("192.0.2.1:5", "198.51.100.2:443");
        let v6 = ("[2001:db8::1]:65535", "[2001:db8::2]:1");
        let mixed = ("192.0.2.1:5", "[2001:db8::2]:1");
        let rows: [(_, &[&[u8]]); 3] = [
            (v4, &[&[0x21, 0x12, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0, 5, 1, 0xbb]]),
            (
                v6,
                &[
                    &[0x21, 0x22, 0, 36, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                    &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0, 1],
                ],
            ),
            (
                mixed,
                &[
                    &[0x21, 0x22, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1],
                    &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 5, 0, 1],
                ],
            ),
        ];
        for ((client, destination), behind_the_signature) in rows {
            let header = datagram_header(client.parse().expect("valid"), destination.parse().expect("valid"));
            assert_eq!(header[..12], *V2_SIGNATURE);
            assert_eq!(header[12..], behind_the_signature.concat(), "{client}");
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_left_out_whole() {
        let long = "a".repeat(MAX_VALUE_BYTES + 1);
        let introduction = Introduction { authority: Some(&long), ..Introduction::default() };
        assert_eq!(header(ProxyProtocol::V2, &introduction).len(), 23);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_whatever_follows(
            client in any::<(IpAddr, u16)>(), destination in any::<(IpAddr, u16)>(), authority in "[a-z.]{0,600}",
            payload in prop::collection::vec(any::<u8>(), 0..50), flip in any::<(usize, u8)>(),
        ) {
            let addresses = Some((SocketAddr::new(client.0, client.1), SocketAddr::new(destination.0, destination.1)));
            let sent = addresses.map(one_family);
            let introduction =
                Introduction { addresses, unique_id: &[7; 32], authority: Some(&authority), alpn: Some(b"h2"), listener: Some("web") };
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let written = header(version, &introduction);
                prop_assert!(version == ProxyProtocol::V2 || written.len() <= V1_MAX_BYTES);
                let length = written.len();
                prop_assert_eq!(parse(&[&written[..], &payload].concat()), Parsed::Complete { length, addresses: sent });
                let told = version == ProxyProtocol::V2;
                prop_assert_eq!(value_of(&written, TLV_UNIQUE_ID), told.then_some(&[7; 32][..]));
                prop_assert_eq!(value_of(&written, TLV_LISTENER), told.then_some(&b"web"[..]));
                prop_assert_eq!(value_of(&written, 0xee), None);
                for cut in 0..written.len() {
                    let found = value_of(&written[..cut], TLV_LISTENER);
                    prop_assert!(found.is_none_or(|value| value == b"web"));
                }
            }
            // No changed bit behind the length passes for a good header: the checksum sees it.
            let mut broken = header(ProxyProtocol::V2, &introduction);
            let at = 16 + flip.0 % (broken.len() - 16);
            if flip.1 != 0 {
                broken[at] ^= flip.1;
                let changed = parse(&broken);
                let same = Parsed::Complete { length: broken.len(), addresses: sent };
                prop_assert!(changed != same || tlvs_lost_their_checksum(&broken));
            }
        }
    }

    /// The changed byte made the checksum's own TLV another one, or part of another one.
    fn tlvs_lost_their_checksum(bytes: &[u8]) -> bool {
        let start = 16 + if bytes[13] == 0x11 { 12 } else { 36 };
        tlvs(&bytes[start..]).iter().all(|(kind, _)| *kind != TLV_CRC32C)
    }
}
