//! What an edge process tells its successor when that takes over (docs/contracts.md §9).
//!
//! One JSON object a message, over a `SOCK_SEQPACKET` pair; a UDP session's socket goes beside it. The two
//! processes may be of different versions: unknown fields are ignored, and a version that is not known is refused.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What this build speaks.
pub const VERSION: u32 = 1;
/// Longest message in bytes.
pub const MESSAGE_BYTES: usize = 4096;
/// The successor's answer once it serves. Anything else is a refusal, `-` and a text.
pub const TAKEN: &[u8] = b"+";
/// Begins a refusal.
pub const REFUSED: u8 = b'-';

/// One message to the successor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// The first.
    Begin {
        /// [`VERSION`].
        version: u32,
    },
    /// A connection that was handed over and still holds a place in a limit.
    Place(PlaceRecord),
    /// A UDP session; its socket comes along.
    Session(SessionRecord),
    /// The last: from now on the successor serves.
    End,
}

/// A connection whose end a gateway will tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// The gateway that has it, or will take it off its queue.
    pub gateway: usize,
    /// How often that gateway's process had ended.
    pub incarnation: u64,
    /// The connection's id in hexadecimal.
    pub id: String,
    /// The how-manieth connection that the gateway was sent.
    pub number: u64,
    /// [`crate::handoff::listener_key`] of the listener's name.
    pub listener: u64,
    /// Whose place it is.
    pub source: IpAddr,
}

/// A UDP session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)] // as in the edge's own `Session`
pub struct SessionRecord {
    /// `name|udp:bind` of the listening socket.
    pub listener: String,
    pub id: String,
    pub client: SocketAddr,
    pub local: Option<IpAddr>,
    pub pool: String,
    pub endpoint: String,
    pub endpoint_address: String,
    pub started_us: u64,
    /// When it was last used, on the coarse clock.
    pub seen_ms: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub moves: u64,
    pub outstanding: u64,
}

impl Message {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Read a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_fields_of_later_versions_are_ignored_and_the_rest_is_an_error() {
        let place = PlaceRecord {
            gateway: 3,
            incarnation: 1,
            id: "ab".into(),
            number: 9,
            listener: u64::MAX,
            source: "2001:db8::1".parse().expect("valid"),
        };
        match Message::decode(&Message::Place(place).encode()).expect("valid") {
            Message::Place(read) => assert_eq!((read.gateway, read.listener, read.number), (3, u64::MAX, 9)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            Message::decode(br#"{"kind":"begin","version":2,"more":1}"#),
            Ok(Message::Begin { version: 2 })
        ));
        assert!(Message::decode(br#"{"kind":"else"}"#).is_err());
        assert!(Message::decode(b"").is_err());
    }
}
