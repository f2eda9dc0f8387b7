//! The PROXY protocol, versions 1 and 2, as read from a trusted peer (`proxy-protocol.txt` of its authors).
//!
//! Sans-IO: bytes in, a verdict out. Every length is bounded before anything is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest version 1 line, CRLF included (§2.1).
pub const V1_MAX_BYTES: usize = 107;
/// The longest version 2 header: 16 bytes and a 16-bit length (§2.2).
pub const V2_MAX_BYTES: usize = 16 + 65_535;
/// What a version 2 header begins with.
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The TLV that holds the header's checksum.
pub const TLV_CRC32C: u8 = 0x03;
/// The TLV that holds the connection's id.
pub const TLV_UNIQUE_ID: u8 = 0x05;
/// The TLV, of those that are free for applications, in which an edge tells a gateway on another host the
/// listener that the connection came in by.
pub const TLV_LISTENER: u8 = 0xe0;

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of so many bytes. `None` = the connection speaks for itself (LOCAL, UNKNOWN).
    Complete {
        /// Bytes of the header.
        length: usize,
        /// Client and destination as the peer saw them.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// A good beginning: more bytes are needed.
    Incomplete,
    /// Not a PROXY header.
    Invalid,
}

/// Judge the first bytes of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let shared = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..shared] == V2_SIGNATURE[..shared] {
        return parse_v2(bytes);
    }
    let shared = bytes.len().min(6);
    if bytes[..shared] == b"PROXY "[..shared] { parse_v1(bytes) } else { Parsed::Invalid }
}

/// The whole length of the version 2 header that begins with `bytes`, once it can be told. So many
/// bytes may be taken from the connection without taking any of what follows.
#[must_use]
pub fn v2_length(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < 16 || bytes[..12] != V2_SIGNATURE[..] {
        return None;
    }
    Some(16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])))
}

/// The first value of this kind in a whole header; there is none in version 1.
#[must_use]
pub fn value_of(header: &[u8], kind: u8) -> Option<&[u8]> {
    let used = match (header.starts_with(V2_SIGNATURE), *header.get(13)?) {
        (true, 0x11) => 12,
        (true, 0x21) => 36,
        (true, 0x31 | 0x32) => 216,
        (true, 0x00) => 0,
        _ => return None,
    };
    let mut rest = header.get(16 + used..)?;
    while let [found, high, low, after @ ..] = rest {
        let (value, next) = after.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *found == kind {
            return Some(value);
        }
        rest = next;
    }
    None
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == V1_MAX_BYTES { Parsed::Invalid } else { Parsed::Incomplete };
    };
    let Some(line) = window[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()) else {
        return Parsed::Invalid;
    };
    let mut words = line.split(' ');
    let (_, family) = (words.next(), words.next());
    let addresses = match family {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut address = || words.next().and_then(|word| word.parse::<IpAddr>().ok());
            let (source, destination) = (address(), address());
            let mut port = || words.next().and_then(strict_port);
            let (source_port, destination_port) = (port(), port());
            let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
                (source, destination, source_port, destination_port, words.next())
            else {
                return Parsed::Invalid;
            };
            if source.is_ipv4() != (family == "TCP4") || destination.is_ipv4() != (family == "TCP4") {
                return Parsed::Invalid;
            }
            Some((SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port)))
        }
        _ => return Parsed::Invalid,
    };
    Parsed::Complete { length: end + 1, addresses }
}

/// §2.1: decimal, 0–65535, no leading zero.
fn strict_port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    if bytes.len() < 16 {
        // Version and command are judged as soon as they are there.
        return match bytes.get(12) {
            Some(byte) if byte >> 4 != 2 || byte & 15 > 1 => Parsed::Invalid,
            _ => Parsed::Incomplete,
        };
    }
    let (command, family) = (bytes[12] & 15, bytes[13]);
    if bytes[12] >> 4 != 2 || command > 1 {
        return Parsed::Invalid;
    }
    let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if bytes.len() < length {
        return Parsed::Incomplete;
    }
    let header = &bytes[..length];
    let body = &header[16..];
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (addresses, used) = match family {
        0x11 if body.len() >= 12 => {
            let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
            (Some((SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10)))), 12)
        }
        0x21 if body.len() >= 36 => {
            let ip = |at: usize| {
                let mut octets = [0u8; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            (Some((SocketAddr::new(ip(0), port(32)), SocketAddr::new(ip(16), port(34)))), 36)
        }
        // LOCAL may leave the family unspecified; so may a peer that does not know it.
        0x00 => (None, 0),
        // Unix sockets: 216 bytes of paths that mean nothing to us.
        0x31 | 0x32 if body.len() >= 216 => (None, 216),
        _ if command == 0 => (None, body.len()),
        _ => return Parsed::Invalid,
    };
    // With an unspecified family the rest need not be TLVs (§2.2: "the receiver should ignore").
    if family != 0 && used < body.len() && !tlvs_are_sound(header, 16 + used) {
        return Parsed::Invalid;
    }
    Parsed::Complete { length, addresses: if command == 1 { addresses } else { None } }
}

fn tlvs_are_sound(header: &[u8], start: usize) -> bool {
    let mut at = start;
    while at < header.len() {
        if at + 3 > header.len() {
            return false;
        }
        let length = usize::from(u16::from_be_bytes([header[at + 1], header[at + 2]]));
        let value = at + 3;
        if value + length > header.len() {
            return false;
        }
        if header[at] == TLV_CRC32C && (length != 4 || !checksum_holds(header, value)) {
            return false;
        }
        at = value + length;
    }
    true
}

/// §2.2.3: CRC-32C over the whole header with the checksum's own four bytes taken as zero.
fn checksum_holds(header: &[u8], at: usize) -> bool {
    let zeroed = header.iter().enumerate().map(|(index, &byte)| if (at..at + 4).contains(&index) { 0 } else { byte });
    header[at..at + 4] == crc32c(zeroed).to_be_bytes()
}

/// CRC-32C (Castagnoli). Bit by bit: a header is a hundred bytes.
pub(crate) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(text: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        match parse(text) {
            Parsed::Complete { addresses, .. } => addresses,
            other => panic!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = V2_SIGNATURE.to_vec();
        out.extend([0x20 | command, family]);
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn version_1() {
        let (client, destination) =
            complete(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET").expect("has addresses");
        assert_eq!(
            (client.to_string(), destination.to_string()),
            ("192.0.2.1:56324".into(), "198.51.100.2:443".into())
        );
        assert!(complete(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n").is_some());
        assert_eq!(complete(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(complete(b"PROXY UNKNOWN ffff:: ::1 1 2\r\n"), None);
        for bad in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Parsed::Invalid, "{bad:?}");
        }
        let mut long = b"PROXY UNKNOWN ".to_vec();
        long.resize(V1_MAX_BYTES - 2, b'x');
        assert_eq!(parse(&long), Parsed::Incomplete);
        let mut fits = long.clone();
        fits.extend(b"\r\n");
        assert!(matches!(parse(&fits), Parsed::Complete { length: V1_MAX_BYTES, .. }));
        long.extend(b"x\r\n");
        assert_eq!(parse(&long), Parsed::Invalid);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283); // RFC 3720 appendix B.4's polynomial
    }

    #[test]
    fn payload_fused_with_a_header_is_not_part_of_it() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
        let payload = [TLV_CRC32C, 0, 4, 1, 2, 3, 4, 0xff, 0xff];
        for header in [v2(1, 0x11, &body), v2(1, 0x11, &[&body[..], &[4, 0, 1, 9]].concat()), v2(0, 0, b"")] {
            assert_eq!(v2_length(&header), Some(header.len()));
            assert_eq!(parse(&[&header[..], &payload].concat()), parse(&header));
            assert!(matches!(parse(&header), Parsed::Complete { length, .. } if length == header.len()));
        }
        let line = b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n";
        assert_eq!(parse(&[&line[..], b"PROXY x\r\n"].concat()), parse(line));
        assert_eq!((v2_length(line), v2_length(&V2_SIGNATURE[..])), (None, None));
    }

    #[test]
    fn a_body_shorter_than_its_addresses_is_refused_at_every_length() {
        for (family, size) in [(0x11, 12), (0x21, 36), (0x31, 216), (0x32, 216)] {
            for length in 0..size {
                assert_eq!(parse(&v2(1, family, &vec![0; length])), Parsed::Invalid, "{family:#x}, {length} bytes");
            }
            assert!(matches!(parse(&v2(1, family, &vec![0; size])), Parsed::Complete { .. }), "{family:#x}");
        }
    }

    #[test]
    fn version_2() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
        let whole = v2(1, 0x11, &body);
        assert_eq!(complete(&whole).expect("has addresses").0.to_string(), "192.0.2.1:56324");
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Parsed::Incomplete, "{end} bytes");
        }
        assert_eq!(complete(&v2(0, 0, &[4, 0, 1, 9])), None, "LOCAL with TLVs");
        assert_eq!(complete(&v2(0, 0x11, &body)), None);
        assert!(matches!(
            parse(&v2(1, 0, &vec![0; 65_535])),
            Parsed::Complete { length: V2_MAX_BYTES, addresses: None }
        ));
        for bad in [v2(2, 0x11, &body), v2(1, 0x11, &body[..11]), v2(1, 0x44, &body)] {
            assert_eq!(parse(&bad), Parsed::Invalid);
        }
        let mut with_crc = v2(1, 0x11, &[&body[..], &[TLV_CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        assert_eq!(parse(&with_crc), Parsed::Invalid, "a wrong checksum");
        let at = with_crc.len() - 4;
        let crc = crc32c(with_crc.iter().copied());
        with_crc[at..].copy_from_slice(&crc.to_be_bytes());
        assert!(complete(&with_crc).is_some());
        assert_eq!(parse(&v2(1, 0x11, &[&body[..], &[5, 0, 9, 1]].concat())), Parsed::Invalid, "a TLV past the end");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic_or_claim_more_than_there_is(
            prefix in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10"]),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [prefix, &noise].concat();
            if let Parsed::Complete { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
