//! The client hello that opens a TLS connection (RFC 8446 §4.1.2), read without decrypting anything.
//!
//! Sans-IO: bytes in, a verdict out. The message may come in any number of segments and of records.
//! Each byte is looked at once while it arrives, and the message once when it is whole; a verdict
//! on a prefix is never taken back.

use thiserror::Error;

/// The longest message that is read. Post-quantum key shares make 1.2–1.8 KB.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// The most bytes that it may come in, record headers included: no hello comes in thousands of records.
pub const MAX_BYTES: usize = MAX_MESSAGE_BYTES + 4 * 1024;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// RFC 8446 §5.1.
const MAX_RECORD: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
/// The longest DNS name, written out (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// What the edge wants to know of a client hello.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// SNI, in lower case and without a dot at its end. Under ECH it is the outer name.
    pub server_name: Option<String>,
    /// The protocols that the client offers, best first, without GREASE (RFC 8701).
    pub alpn: Vec<Vec<u8>>,
    /// 0x0303 since TLS 1.2.
    pub legacy_version: u16,
}

/// Why bytes are not a client hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Not a TLS handshake record of a known major version.
    #[error("not a TLS handshake record")]
    Record,
    /// The first handshake message is another one.
    #[error("not a ClientHello")]
    Message,
    /// Over [`MAX_MESSAGE_BYTES`] or [`MAX_BYTES`].
    #[error("too long")]
    TooLong,
    /// The lengths inside do not add up.
    #[error("its lengths do not add up")]
    Lengths,
    /// An extension stands twice, or holds what it must not.
    #[error("a malformed extension")]
    Extension,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The whole message was there.
    Complete(ClientHello),
    /// A good beginning; nothing can be said before there are so many bytes in all.
    Incomplete(usize),
    /// Not a client hello.
    Invalid(Malformed),
}

/// Reads one client hello.
#[derive(Debug, Default)]
pub struct HelloReader {
    message: Vec<u8>,
    /// Bytes of the connection taken into account.
    taken: usize,
    /// Bytes of the current record that have not come yet.
    record_left: usize,
}

impl HelloReader {
    /// Judge the first bytes of a connection: all of them, each time, with more at the end.
    pub fn read(&mut self, bytes: &[u8]) -> Progress {
        let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
        loop {
            match self.step(bytes) {
                Ok(Some(hello)) => return Progress::Complete(hello),
                Ok(None) => {}
                Err(Stop::Wanting(total)) if total > MAX_BYTES => return Progress::Invalid(Malformed::TooLong),
                Err(Stop::Wanting(total)) => return Progress::Incomplete(total),
                Err(Stop::Malformed(why)) => return Progress::Invalid(why),
            }
        }
    }

    /// Take a record's header, or what there is of its content.
    fn step(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, Stop> {
        let rest = bytes.get(self.taken..).unwrap_or_default();
        if self.record_left == 0 {
            self.record_left = record_length(rest)?.ok_or(Stop::Wanting(self.taken + RECORD_HEADER))?;
            self.taken += RECORD_HEADER;
            return Ok(None);
        }
        let count = rest.len().min(self.record_left).min(self.wanting()?);
        self.message.extend_from_slice(&rest[..count]);
        self.taken += count;
        self.record_left -= count;
        match self.wanting()? {
            0 => parse(&self.message[MESSAGE_HEADER..]).map(Some).map_err(Stop::Malformed),
            wanting if count == 0 => Err(Stop::Wanting(self.taken + wanting.min(self.record_left))),
            _ => Ok(None),
        }
    }

    /// Bytes of the message that are certainly still to come: of its header first.
    fn wanting(&self) -> Result<usize, Stop> {
        let message = &self.message;
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Stop::Malformed(Malformed::Message));
        }
        if message.len() < MESSAGE_HEADER {
            return Ok(MESSAGE_HEADER - message.len());
        }
        let length = usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
        if length > MAX_MESSAGE_BYTES {
            return Err(Stop::Malformed(Malformed::TooLong));
        }
        Ok(MESSAGE_HEADER + length - message.len())
    }
}

enum Stop {
    Wanting(usize),
    Malformed(Malformed),
}

/// The length that a record's header gives, judged byte by byte; `None` = the header is not whole.
fn record_length(bytes: &[u8]) -> Result<Option<usize>, Stop> {
    let wrong = bytes.first().is_some_and(|&kind| kind != HANDSHAKE) || bytes.get(1).is_some_and(|&major| major != 3);
    if wrong {
        return Err(Stop::Malformed(Malformed::Record));
    }
    let Some(header) = bytes.get(..RECORD_HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // A handshake record without content is not allowed (RFC 8446 §5.1).
    if length == 0 || length > MAX_RECORD { Err(Stop::Malformed(Malformed::Record)) } else { Ok(Some(length)) }
}

/// The rest of a structure that is being read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed::Lengths)?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u16, Malformed> {
        let word = self.take(2)?;
        Ok(u16::from_be_bytes([word[0], word[1]]))
    }

    /// A vector behind a length of one byte.
    fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    /// A vector behind a length of two bytes.
    fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.word()?);
        self.take(length)
    }

    /// A vector behind a length of two bytes that is all there is.
    fn only_long(&mut self) -> Result<Fields<'a>, Malformed> {
        let inside = self.long()?;
        if self.0.is_empty() && !inside.is_empty() { Ok(Fields(inside)) } else { Err(Malformed::Extension) }
    }
}

fn parse(body: &[u8]) -> Result<ClientHello, Malformed> {
    let mut fields = Fields(body);
    let mut hello = ClientHello { legacy_version: fields.word()?, ..ClientHello::default() };
    fields.take(32)?; // random
    let session = fields.short()?;
    let suites = fields.long()?;
    let compressions = fields.short()?;
    let sound = session.len() <= 32 && !suites.is_empty() && suites.len() % 2 == 0 && !compressions.is_empty();
    if !sound || hello.legacy_version >> 8 != 3 {
        return Err(Malformed::Lengths);
    }
    if fields.0.is_empty() {
        return Ok(hello); // without extensions, as before TLS 1.2
    }
    let mut extensions = Fields(fields.long()?);
    if !fields.0.is_empty() {
        return Err(Malformed::Lengths);
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.word()?;
        let content = Fields(extensions.long()?);
        // Twice would let two readers see two names (RFC 8446 §4.2).
        match kind {
            SERVER_NAME if !std::mem::replace(&mut named, true) => hello.server_name = server_name(content)?,
            ALPN if !std::mem::replace(&mut offered, true) => hello.alpn = protocols(content)?,
            SERVER_NAME | ALPN => return Err(Malformed::Extension),
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 §3: a list with at most one name of each type.
fn server_name(mut content: Fields<'_>) -> Result<Option<String>, Malformed> {
    let mut list = content.only_long()?;
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.byte()?;
        let name = list.long()?;
        if kind == HOST_NAME && found.replace(host_name(name)?).is_some() {
            return Err(Malformed::Extension);
        }
    }
    Ok(found)
}

fn host_name(bytes: &[u8]) -> Result<String, Malformed> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let labels_hold = bytes.split(|&byte| byte == b'.').all(|label| !label.is_empty());
    if bytes.len() > MAX_NAME_BYTES || !labels_hold || !bytes.iter().all(known) {
        return Err(Malformed::Extension);
    }
    Ok(bytes.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// RFC 7301 §3.1.
fn protocols(mut content: Fields<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut list = content.only_long()?;
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let name = list.short()?;
        if name.is_empty() {
            return Err(Malformed::Extension);
        }
        let grease = name.len() == 2 && name[0] == name[1] && name[0] & 0x0f == 0x0a;
        if !grease {
            found.push(name.to_vec());
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
