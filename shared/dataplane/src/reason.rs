//! The code that says why Weirgate answered itself: one enum for logs, metrics, answers and docs.

/// Who erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The client.
    Downstream,
    /// The application.
    Upstream,
    /// The configuration: it has no answer for this request.
    Config,
    /// More than what was allowed or could be carried.
    Overload,
    /// Weirgate itself.
    Internal,
}

impl Origin {
    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Config => "config",
            Self::Overload => "overload",
            Self::Internal => "internal",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $origin:ident, $status:literal, $text:literal;)*) => {
        /// Why Weirgate answered, closed or reset by itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $text] $name,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The code in logs, metrics and the `weirgate-reason` header.
            #[must_use]
            pub fn code(self) -> &'static str { match self { $(Self::$name => $code,)* } }
            /// Who erred.
            #[must_use]
            pub fn origin(self) -> Origin { match self { $(Self::$name => Origin::$origin,)* } }
            /// The HTTP status it is answered with; 0 where no answer can be sent.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            /// One sentence for people.
            #[must_use]
            pub fn text(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

reasons! {
    BadRequestFraming = "bad_request_framing", Downstream, 400, "The request's framing or syntax is malformed or ambiguous (RFC 9112).";
    BadRequestTarget = "bad_request_target", Downstream, 400, "The request target is malformed or leaves the root.";
    BadHost = "bad_host", Downstream, 400, "The Host header is missing, repeated or malformed.";
    ExpectationFailed = "expectation_failed", Downstream, 417, "An expectation other than 100-continue was asked for.";
    MethodNotSupported = "method_not_supported", Downstream, 405, "CONNECT and TRACE are not carried.";
    ProtocolNotSupported = "protocol_not_supported", Downstream, 501, "An extended CONNECT asked for another protocol than websocket, or for one where the route has no WebSocket.";
    CodingNotSupported = "coding_not_supported", Downstream, 501, "A transfer coding other than chunked was used.";
    VersionNotSupported = "version_not_supported", Downstream, 505, "The HTTP version is not 1.0 or 1.1.";
    UriTooLong = "uri_too_long", Downstream, 414, "The request target is longer than the gateway's limit.";
    HeaderTooLarge = "header_too_large", Downstream, 431, "The request head is over the gateway's limit of bytes or fields.";
    BodyTooLarge = "body_too_large", Downstream, 413, "The request body is larger than the route's limit.";
    RequestTimeout = "request_timeout", Downstream, 408, "The request head or body did not arrive in time.";
    Http2Flood = "http2_flood", Downstream, 0, "The HTTP/2 client sent more control frames than the gateway's limit.";
    PingTimeout = "ping_timeout", Downstream, 0, "The HTTP/2 client did not answer a PING in time: it has gone without a word.";
    BadProxyHeader = "bad_proxy_header", Downstream, 0, "A trusted peer sent no valid PROXY protocol header in time, or an edge one without id and listener.";
    BadClientHello = "bad_client_hello", Downstream, 0, "What a tls listener was sent is not a TLS client hello.";
    HelloTimeout = "hello_timeout", Downstream, 0, "The TLS client hello did not arrive in time.";
    UnknownServerName = "unknown_server_name", Config, 0, "The listener has nothing for the server name that the client asked for, or for a client that asks for none.";
    ClientCertificateRefused = "client_certificate_refused", Downstream, 0, "The client showed no certificate where the listener requires one, or one that it does not take: of another authority, expired, revoked, or not to be read.";
    TlsHandshakeFailed = "tls_handshake_failed", Downstream, 0, "The TLS handshake failed or took too long.";
    ClientGone = "client_gone", Downstream, 499, "The client closed the connection before the answer was complete.";
    ClientReset = "client_reset", Downstream, 0, "The client reset the stream.";
    IdleTimeout = "idle_timeout", Downstream, 0, "Neither side sent a byte for the idle timeout.";
    NoRoute = "no_route", Config, 404, "No route matches the request.";
    PoolEmpty = "pool_empty", Config, 503, "The pool has no endpoint that may get traffic.";
    NoEndpoint = "no_endpoint", Upstream, 503, "Every endpoint of the pool is down or was tried, and the pool fails closed.";
    ConnectRefused = "connect_refused", Upstream, 502, "The endpoint refused the connection.";
    ConnectTimeout = "connect_timeout", Upstream, 504, "The endpoint did not accept the connection in time.";
    ConnectFailed = "connect_failed", Upstream, 502, "The endpoint could not be reached.";
    UpstreamTlsFailed = "upstream_tls_failed", Upstream, 502, "The TLS handshake with the endpoint failed.";
    UpstreamClosedEarly = "upstream_closed_early", Upstream, 502, "The endpoint closed the connection before its answer was complete.";
    UpstreamNoHttp2 = "upstream_no_http2", Upstream, 502, "The endpoint does not agree to HTTP/2, which its pool is configured for.";
    UpstreamNoUpgrade = "upstream_no_upgrade", Upstream, 502, "The endpoint takes no WebSocket: over HTTP/2 it does not offer any (RFC 8441), or it answered as if nobody had asked for one.";
    UpstreamReset = "upstream_reset", Upstream, 0, "The endpoint reset the stream.";
    UpstreamBadResponse = "upstream_bad_response", Upstream, 502, "The endpoint's answer is malformed or ambiguous (RFC 9112).";
    UpstreamHeaderTooLarge = "upstream_header_too_large", Upstream, 502, "The endpoint's response head is too large.";
    ResponseTimeout = "response_timeout", Upstream, 504, "The endpoint did not begin to answer in time.";
    BodyTimeout = "body_timeout", Upstream, 504, "The body stalled for longer than the route allows.";
    TotalTimeout = "total_timeout", Upstream, 504, "The exchange took longer than the route's total timeout.";
    RateLimited = "rate_limited", Overload, 429, "The source is over the route's rate limit.";
    PoolOverloaded = "pool_overloaded", Overload, 503, "Every endpoint has its maximum of connections and none came free in time.";
    QueueFull = "queue_full", Overload, 503, "Every endpoint has its maximum of connections, and as many as may wait for a place do.";
    Exhausted = "exhausted", Overload, 503, "The process has no file descriptor, or the host no local port, left for the connection.";
    Denied = "denied", Downstream, 0, "The source is denied by the listener's lists.";
    SourceLimit = "source_limit", Overload, 0, "The source has its maximum of concurrent connections.";
    ListenerFull = "listener_full", Overload, 0, "The listener has its maximum of connections.";
    SourceRate = "source_rate", Overload, 0, "The source opens connections, or sends datagrams, faster than the listener lets it.";
    SourceBytes = "source_bytes", Overload, 0, "More bytes come from the source, or are sent to it, than the listener lets pass: the datagram is dropped.";
    ListenerRate = "listener_rate", Overload, 0, "Connections come faster than the listener takes them.";
    Shunned = "shunned", Downstream, 0, "The source is on the shun list.";
    SessionLimit = "session_limit", Overload, 0, "The listener has its maximum of UDP sessions, and all of them are active.";
    SessionEvicted = "session_evicted", Overload, 0, "The UDP session was idle for the longest time when room was needed for another.";
    SendBufferFull = "send_buffer_full", Overload, 0, "The socket's send buffer has no room for the datagram.";
    DatagramTooLarge = "datagram_too_large", Downstream, 0, "The datagram is larger than the way to its receiver takes.";
    EndpointDown = "endpoint_down", Upstream, 0, "The endpoint went down and its pool closes the streams of such endpoints, or it is a gateway node that cannot be reached.";
    Draining = "draining", Internal, 503, "The process or the endpoint is draining and its deadline has passed.";
    ConfigChanged = "config_changed", Config, 0, "The listener was removed by a reload before the connection was taken, or is one that an edge has and this gateway node has not.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_errors_or_none() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.status() == 0 || (400..600).contains(&reason.status()));
            assert!(!reason.text().is_empty() && !reason.origin().name().is_empty());
        }
    }
}
