//! The one internal form of a request or response head: every codec fills it, nothing after asks for the version.
//!
//! Names and values are spans of one byte buffer, so a head costs no allocation once its buffers have grown.

/// A piece of a head's buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// The piece from `start` that is `length` bytes long.
    #[must_use]
    pub fn new(start: usize, length: usize) -> Self {
        Self { start: start as u32, length: length as u32 }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.length as usize
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.length) as usize
    }
}

macro_rules! known_headers {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Header names that Weirgate itself acts on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum HeaderId {
            $(#[doc = $text] $name,)*
            /// Any `x-forwarded-` header without a meaning of its own here.
            XForwardedOther,
            /// Any other.
            Other,
        }

        impl HeaderId {
            /// Classify a name, whatever its case.
            #[must_use]
            pub fn of(name: &[u8]) -> Self {
                $(const _: () = assert!($text.len() < 32);)*
                match name.len() {
                    $(length if length == $text.len() && name.eq_ignore_ascii_case($text.as_bytes()) => Self::$name,)*
                    length if length > 12 && name[..12].eq_ignore_ascii_case(b"x-forwarded-") => Self::XForwardedOther,
                    _ => Self::Other,
                }
            }
        }
    };
}

known_headers! {
    Accept = "accept", Connection = "connection", ContentLength = "content-length", ContentType = "content-type",
    Cookie = "cookie", Date = "date",
    Expect = "expect", Forwarded = "forwarded", Host = "host", KeepAlive = "keep-alive", ProxyConnection = "proxy-connection",
    Te = "te", Trailer = "trailer", TransferEncoding = "transfer-encoding", Upgrade = "upgrade", UserAgent = "user-agent",
    XForwardedFor = "x-forwarded-for", XForwardedHost = "x-forwarded-host", XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

impl HeaderId {
    /// Fields of one hop that are never passed on as they came (RFC 9110 §7.6.1), and those that
    /// every codec writes anew from what it knows.
    #[must_use]
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::ContentLength
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }
}

#[derive(Debug, Clone, Copy)]
struct Field {
    id: HeaderId,
    name: Span,
    value: Span,
}

/// Header fields in order, with the bytes that they (and the rest of a head) are made of.
#[derive(Debug, Default, Clone)]
pub struct Headers {
    data: Vec<u8>,
    fields: Vec<Field>,
}

impl Headers {
    /// Forget everything but the memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.fields.clear();
    }

    /// Start over with `bytes` as the buffer; spans refer to it.
    pub fn reset(&mut self, bytes: &[u8]) {
        self.clear();
        self.data.extend_from_slice(bytes);
    }

    /// The bytes of a span.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.data[span.range()]
    }

    /// Put bytes into the buffer.
    pub fn store(&mut self, bytes: &[u8]) -> Span {
        let span = Span::new(self.data.len(), bytes.len());
        self.data.extend_from_slice(bytes);
        span
    }

    /// Add a field whose name and value are in the buffer already.
    pub fn push_span(&mut self, id: HeaderId, name: Span, value: Span) {
        self.fields.push(Field { id, name, value });
    }

    /// Add a field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let (id, name, value) = (HeaderId::of(name), self.store(name), self.store(value));
        self.push_span(id, name, value);
    }

    /// Every field: id, name, value.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderId, &[u8], &[u8])> {
        self.fields.iter().map(|field| (field.id, self.bytes(field.name), self.bytes(field.value)))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The first value of a known field.
    #[must_use]
    pub fn get(&self, id: HeaderId) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.id == id).map(|field| self.bytes(field.value))
    }

    /// Where the first value of a known field stands; it stays good when fields are changed.
    #[must_use]
    pub fn span(&self, id: HeaderId) -> Option<Span> {
        self.fields.iter().find(|field| field.id == id).map(|field| field.value)
    }

    /// Every value of the field with this name.
    pub fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(_, known, _)| known.eq_ignore_ascii_case(name)).map(|(_, _, value)| value)
    }

    /// Remove every field with this name.
    pub fn remove(&mut self, name: &[u8]) {
        let data = &self.data;
        self.fields.retain(|field| !data[field.name.range()].eq_ignore_ascii_case(name));
    }

    /// Remove every field of a known kind.
    pub fn remove_id(&mut self, id: HeaderId) {
        self.fields.retain(|field| field.id != id);
    }

    /// Replace every field with this name by one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.push(name, value);
    }
}

/// How long a body is, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Known only when it ends.
    Chunked,
    /// It ends with the connection (responses only).
    UntilClose,
}

/// The version that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// No chunked answers, no interim answers.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Its name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request's head.
#[derive(Debug, Default, Clone)]
pub struct RequestHead {
    /// Fields, and the bytes behind every span here.
    pub headers: Headers,
    /// The method.
    pub method: Span,
    /// The path as it is matched and forwarded: dot segments removed. `*` for `OPTIONS *`.
    pub path: Span,
    /// The query without its `?`.
    pub query: Option<Span>,
    /// Host and port as the client named them; empty in an HTTP/1.0 request without Host.
    pub authority: Span,
    /// The version that it came in: for logs, and for what the oldest clients do not understand.
    pub version: Version,
    /// The body's framing.
    pub framing: Framing,
    /// The client wants to send further requests on this connection.
    pub keep_alive: bool,
    /// The protocol that the client wants to change to, where that may be passed on.
    pub upgrade: Option<Span>,
    /// The client waits for 100 (Continue).
    pub expects_continue: bool,
    /// The client understands trailer fields (RFC 9110 §10.1.4).
    pub takes_trailers: bool,
    /// The client expects what nobody here can promise (RFC 9110 §10.1.1).
    pub unknown_expectation: bool,
}

impl RequestHead {
    /// Forget everything but the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::default() };
    }

    /// The bytes of a span.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        self.headers.bytes(span)
    }

    /// The method's bytes.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.bytes(self.method)
    }

    /// The path's bytes.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.bytes(self.path)
    }

    /// The query's bytes, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        self.query.map(|span| self.bytes(span))
    }

    /// Host and port as the client named them.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.bytes(self.authority)
    }

    /// Asking again cannot do harm (RFC 9110 §9.2.1), and there is no body to send again.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        self.framing == Framing::None
            && self.upgrade.is_none()
            && matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS")
    }
}

/// A response's head.
#[derive(Debug, Default, Clone)]
pub struct ResponseHead {
    /// Fields, and the bytes behind every span here.
    pub headers: Headers,
    /// The status code.
    pub status: u16,
    /// The body's framing.
    pub framing: Framing,
    /// The endpoint lets the connection be used again.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Forget everything but the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_in_any_case() {
        assert_eq!(HeaderId::of(b"HOST"), HeaderId::Host);
        assert_eq!(HeaderId::of(b"Transfer-encoding"), HeaderId::TransferEncoding);
        assert_eq!(HeaderId::of(b"X-Forwarded-Port"), HeaderId::XForwardedOther);
        assert_eq!(HeaderId::of(b"x-forwarded"), HeaderId::Other);
        assert!(HeaderId::of(b"te").is_hop_by_hop() && !HeaderId::of(b"host").is_hop_by_hop());
    }

    #[test]
    fn set_replaces_all_and_remove_leaves_the_rest_in_order() {
        let mut headers = Headers::default();
        for (name, value) in [("A", "1"), ("b", "2"), ("a", "3"), ("C", "4")] {
            headers.push(name.as_bytes(), value.as_bytes());
        }
        headers.set(b"a", b"5");
        headers.remove(b"B");
        let left: Vec<_> = headers.iter().map(|(_, name, value)| (name, value)).collect();
        assert_eq!(left, [(&b"C"[..], &b"4"[..]), (b"a", b"5")]);
        assert_eq!(headers.values(b"c").collect::<Vec<_>>(), [b"4"]);
    }
}
