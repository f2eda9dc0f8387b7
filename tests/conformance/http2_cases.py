"""Frames that RFC 9113 and RFC 7541 have an answer for: what is sent, and what must come."""

import struct
from dataclasses import dataclass

from tests.support.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    block,
    fields_of,
    frame,
    get,
    headers,
    settings,
)


@dataclass(frozen=True)
class Case:
    """What is sent after the client's preface and SETTINGS; what must come."""

    id: str
    rfc: str
    sent: bytes
    outcome: str  # "connection" | "stream" | "answer" | "ping"
    codes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    stream: int = 1
    first: bytes = PREFACE + settings()


def fatal(
    name: str, rfc: str, sent: bytes, *codes: str, first: bytes = PREFACE + settings()
) -> Case:
    """Return a case that ends the connection."""
    return Case(name, rfc, sent, "connection", codes or ("PROTOCOL_ERROR",), first=first)


def reset(name: str, rfc: str, sent: bytes, *codes: str, stream: int = 1) -> Case:
    """Return a case that ends one stream, or with it the connection (RFC 9113 §5.4.1)."""
    return Case(name, rfc, sent, "stream", codes or ("PROTOCOL_ERROR",), stream=stream)


def malformed(name: str, rfc: str, fields: Fields) -> Case:
    """Return a case of a request that is malformed in its head."""
    return reset(name, rfc, headers(1, fields))


def answered(name: str, rfc: str, sent: bytes, *statuses: int, stream: int = 1) -> Case:
    """Return a case that is answered."""
    return Case(name, rfc, sent, "answer", statuses=statuses or (200,), stream=stream)


def update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


def changed(path: str | None = "/", **pseudo: str | None) -> Fields:
    """Return a request's fields with some pseudo-header fields changed or, for None, left out."""
    fields = dict(fields_of())
    for name, value in {"path": path, **pseudo}.items():
        if value is None:
            del fields[f":{name}"]
        else:
            fields[f":{name}"] = value
    return tuple(fields.items())


OPEN = headers(1, fields_of("/", method="POST"), ends=False)
BODY = block(*fields_of())
LONG = block(*fields_of("/", *[(f"x-{n}", "y" * 50) for n in range(20)]))
PRIORITY_OF_1 = struct.pack("!IB", 0, 15)

PREFACES = [
    fatal("bad preface", "9113 3.4", b"", first=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings()),
    # Malformed, but nothing can be misread: the h2 crate takes it.
    Case("no settings first", "9113 3.4", get(1), "answer", first=PREFACE),
]
FRAMES = [
    answered("unknown frame type", "9113 4.1", frame(0xFA, 0xFF, 0, b"x" * 9) + get(1)),
    answered(
        "unknown frame type on a stream",
        "9113 4.1",
        OPEN + frame(0xFA, 0, 1, b"x") + frame(DATA, 1, 1),
    ),
    Case("undefined flags of PING", "9113 4.1", frame(PING, 0x16, 0, b"12345678"), "ping"),
    Case("reserved bit of PING", "9113 4.1", frame(PING, 0, 1 << 31, b"12345678"), "ping"),
    reset(
        "DATA larger than the maximum",
        "9113 4.2",
        OPEN + frame(DATA, 1, 1, b"x" * 16385),
        "FRAME_SIZE_ERROR",
    ),
    fatal(
        "HEADERS larger than the maximum",
        "9113 4.2",
        frame(HEADERS, 5, 1, b"\0" * 16385),
        "FRAME_SIZE_ERROR",
    ),
    fatal(
        "broken header block",
        "9113 4.3",
        frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "PRIORITY inside a header block",
        "9113 4.3",
        frame(HEADERS, 1, 1, BODY) + frame(PRIORITY, 0, 1, PRIORITY_OF_1),
    ),
    fatal(
        "HEADERS of another stream inside a header block",
        "9113 4.3",
        frame(HEADERS, 1, 1, BODY) + get(3),
    ),
]
STATES = [
    fatal(
        "DATA on an idle stream",
        "9113 5.1",
        frame(DATA, 1, 1, b"x"),
        "PROTOCOL_ERROR",
        "STREAM_CLOSED",
    ),
    fatal("RST_STREAM on an idle stream", "9113 5.1", frame(RST_STREAM, 0, 1, bytes(4))),
    fatal("WINDOW_UPDATE on an idle stream", "9113 5.1", update(1, 100)),
    fatal("CONTINUATION on an idle stream", "9113 5.1", frame(CONTINUATION, END_HEADERS, 1, BODY)),
    reset(
        "DATA after the end", "9113 5.1", get(1, "/slow") + frame(DATA, 1, 1, b"x"), "STREAM_CLOSED"
    ),
    reset("HEADERS after the end", "9113 5.1", get(1, "/slow") + get(1), "STREAM_CLOSED"),
    fatal(
        "CONTINUATION after the end",
        "9113 5.1",
        get(1, "/slow") + frame(CONTINUATION, 4, 1, BODY),
        "PROTOCOL_ERROR",
        "STREAM_CLOSED",
    ),
    reset(
        "DATA after a reset",
        "9113 5.1",
        OPEN + frame(RST_STREAM, 0, 1, bytes(3) + b"\x08") + frame(DATA, 1, 1, b"x"),
        "STREAM_CLOSED",
    ),
    fatal("an even stream", "9113 5.1.1", get(2)),
    fatal("a smaller stream", "9113 5.1.1", get(5, "/slow") + get(3)),
    answered(
        "PRIORITY on an idle stream", "9113 5.3", frame(PRIORITY, 0, 3, PRIORITY_OF_1) + get(1)
    ),
]
BY_TYPE = [
    fatal("DATA on stream 0", "9113 6.1", frame(DATA, 1, 0, b"x")),
    fatal("DATA with more padding than payload", "9113 6.1", OPEN + frame(DATA, 9, 1, b"\x06xxx")),
    answered("padded DATA", "9113 6.1", OPEN + frame(DATA, PADDED | END_STREAM, 1, b"\x02xx\0\0")),
    fatal("HEADERS on stream 0", "9113 6.2", frame(HEADERS, 5, 0, BODY)),
    fatal(
        "HEADERS with more padding than payload", "9113 6.2", frame(HEADERS, 13, 1, b"\xff" + BODY)
    ),
    answered(
        "padded HEADERS with priority",
        "9113 6.2",
        frame(HEADERS, 5 | PADDED | HAS_PRIORITY, 1, b"\x03" + PRIORITY_OF_1 + BODY + bytes(3)),
    ),
    fatal("PRIORITY on stream 0", "9113 6.3", frame(PRIORITY, 0, 0, PRIORITY_OF_1)),
    fatal("RST_STREAM on stream 0", "9113 6.4", frame(RST_STREAM, 0, 0, bytes(4))),
    fatal(
        "RST_STREAM of a wrong size",
        "9113 6.4",
        OPEN + frame(RST_STREAM, 0, 1, bytes(3)),
        "FRAME_SIZE_ERROR",
    ),
    fatal(
        "SETTINGS ack with payload",
        "9113 6.5",
        frame(SETTINGS, ACK, 0, bytes(1)),
        "FRAME_SIZE_ERROR",
    ),
    fatal("SETTINGS on a stream", "9113 6.5", frame(SETTINGS, 0, 1, bytes(6))),
    fatal(
        "SETTINGS of a wrong size", "9113 6.5", frame(SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"
    ),
    fatal("ENABLE_PUSH of 2", "9113 6.5.2", settings((2, 2))),
    fatal("a window beyond 2^31-1", "9113 6.5.2", settings((4, 1 << 31)), "FLOW_CONTROL_ERROR"),
    fatal("a frame size below 16384", "9113 6.5.2", settings((5, 16383))),
    fatal("a frame size beyond 2^24-1", "9113 6.5.2", settings((5, 1 << 24))),
    answered("an unknown setting", "9113 6.5.2", settings((0xFF, 1)) + get(1)),
    fatal(
        "PUSH_PROMISE of a client", "9113 8.4", OPEN + frame(PUSH_PROMISE, 4, 1, bytes(4) + BODY)
    ),
    Case("PING", "9113 6.7", frame(PING, 0, 0, b"abcdefgh"), "ping"),
    fatal("PING on a stream", "9113 6.7", frame(PING, 0, 1, bytes(8))),
    fatal("PING of a wrong size", "9113 6.7", frame(PING, 0, 0, bytes(6)), "FRAME_SIZE_ERROR"),
    fatal("GOAWAY on a stream", "9113 6.8", frame(GOAWAY, 0, 1, bytes(8))),
    fatal("WINDOW_UPDATE of 0 on the connection", "9113 6.9", update(0, 0)),
    reset("WINDOW_UPDATE of 0 on a stream", "9113 6.9", OPEN + update(1, 0)),
    fatal(
        "WINDOW_UPDATE of a wrong size",
        "9113 6.9",
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        "FRAME_SIZE_ERROR",
    ),
    fatal(
        "a connection window beyond 2^31-1",
        "9113 6.9.1",
        update(0, 2**31 - 1),
        "FLOW_CONTROL_ERROR",
    ),
    reset(
        "a stream window beyond 2^31-1",
        "9113 6.9.1",
        OPEN + update(1, 2**31 - 1),
        "FLOW_CONTROL_ERROR",
    ),
    answered(
        "CONTINUATION",
        "9113 6.10",
        frame(HEADERS, 1, 1, LONG[:9])
        + frame(CONTINUATION, 0, 1, LONG[9:40])
        + frame(CONTINUATION, 4, 1, LONG[40:]),
    ),
    fatal(
        "CONTINUATION after the block",
        "9113 6.10",
        get(1, "/slow") + frame(CONTINUATION, 4, 1, b""),
    ),
    fatal(
        "CONTINUATION on stream 0",
        "9113 6.10",
        frame(HEADERS, 1, 1, BODY) + frame(CONTINUATION, 4, 0, b""),
    ),
    fatal(
        "DATA inside a header block",
        "9113 6.10",
        frame(HEADERS, 0, 1, BODY) + frame(DATA, 1, 1, b"x"),
    ),
    answered(
        "an unknown error code",
        "9113 7",
        OPEN + frame(RST_STREAM, 0, 1, b"\0\0\0\xff") + get(3),
        stream=3,
    ),
]
MESSAGES = [
    answered("trailers", "9113 8.1", OPEN + frame(DATA, 0, 1, b"x") + headers(1, (("x-t", "1"),))),
    reset(
        "HEADERS in the middle of a body",
        "9113 8.1",
        OPEN + frame(DATA, 0, 1, b"x") + headers(1, (("x-t", "1"),), ends=False),
    ),
    malformed("an upper-case name", "9113 8.2.1", fields_of("/", ("X-Up", "y"))),
    malformed("a name with a space", "9113 8.2.1", fields_of("/", ("a b", "y"))),
    malformed("a name with a colon", "9113 8.2.1", fields_of("/", ("a:b", "y"))),
    malformed("a value with CR LF", "9113 8.2.1", fields_of("/", ("a", "y\r\nb: c"))),
    malformed("a value with NUL", "9113 8.2.1", fields_of("/", ("a", "y\0"))),
    malformed("an unknown pseudo-header", "9113 8.3", fields_of("/", (":test", "y"))),
    malformed("a response's pseudo-header", "9113 8.3", fields_of("/", (":status", "200"))),
    malformed(
        "a pseudo-header after the others",
        "9113 8.3",
        (*changed(path=None), ("a", "b"), (":path", "/")),
    ),
    reset("a pseudo-header among trailers", "9113 8.3", OPEN + headers(1, ((":method", "GET"),))),
    *[
        malformed(f"a field of the connection: {name}", "9113 8.2.2", fields_of("/", (name, value)))
        for name, value in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
        ]
    ],
    answered("te: trailers", "9113 8.2.2", get(1, "/", ("te", "trailers"))),
    malformed("an empty path", "9113 8.3.1", changed("")),
    malformed("no method", "9113 8.3.1", changed(method=None)),
    malformed("no scheme", "9113 8.3.1", changed(scheme=None)),
    malformed("no path", "9113 8.3.1", changed(path=None)),
    *[
        malformed(f"two of :{name}", "9113 8.3.1", (*fields_of(), (f":{name}", value)))
        for name, value in [
            ("method", "GET"),
            ("scheme", "http"),
            ("path", "/"),
            ("authority", "b"),
        ]
    ],
    malformed(
        "content-length without a body", "9113 8.1.1", fields_of("/", ("content-length", "1"))
    ),
    reset(
        "less than content-length",
        "9113 8.1.1",
        headers(1, fields_of("/", ("content-length", "2")), ends=False) + frame(DATA, 1, 1, b"x"),
    ),
    reset(
        "more than content-length",
        "9113 8.1.1",
        headers(1, fields_of("/", ("content-length", "1")), ends=False) + frame(DATA, 1, 1, b"xx"),
    ),
    reset(
        "more than content-length in two",
        "9113 8.1.1",
        headers(1, fields_of("/", ("content-length", "1")), ends=False)
        + frame(DATA, 0, 1, b"x")
        + frame(DATA, 1, 1, b"x"),
    ),
    answered(
        "host and no authority",
        "9113 8.3.1",
        headers(1, (*changed(authority=None), ("host", "weirgate.test"))),
    ),
    answered("neither host nor authority", "9113 8.3.1", headers(1, changed(authority=None)), 400),
    answered(
        "host other than the authority", "9113 8.3.1", get(1, "/", ("host", "evil.test")), 400
    ),
    answered(
        "two hosts",
        "9110 7.2",
        get(1, "/", ("host", "weirgate.test"), ("host", "weirgate.test")),
        400,
    ),
    answered(
        "CONNECT", "9113 8.5", headers(1, ((":method", "CONNECT"), (":authority", "a:1"))), 405
    ),
    answered(
        "OPTIONS *",
        "9113 8.3.1",
        headers(
            1,
            (
                (":method", "OPTIONS"),
                (":scheme", "http"),
                (":path", "*"),
                (":authority", "weirgate.test"),
            ),
        ),
    ),
    answered("a path that leaves the root", "3986 5.2.4", get(1, "/a/../../b"), 400),
    answered(
        "a head over the limit",
        "9113 6.5.2",
        frame(HEADERS, 1, 1, block(*fields_of("/", ("a", "y" * 12_000))))
        + frame(CONTINUATION, 0, 1, block(("b", "y" * 12_000)))
        + frame(CONTINUATION, 4, 1, block(("c", "y" * 12_000))),
        431,
    ),
]
COMPRESSION = [
    fatal("index 0", "7541 6.1", frame(HEADERS, 5, 1, b"\x80"), "COMPRESSION_ERROR"),
    fatal(
        "an index beyond the tables",
        "7541 2.3.3",
        frame(HEADERS, 5, 1, BODY + b"\xff\x80\x01"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "a table size beyond the setting",
        "7541 6.3",
        frame(HEADERS, 5, 1, b"\x3f\xe2\x1f" + BODY),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "a table size at the end",
        "7541 4.2",
        frame(HEADERS, 5, 1, BODY + b"\x20"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "Huffman padding of more than 7 bits",
        "7541 5.2",
        frame(HEADERS, 5, 1, BODY + b"\x00\x82\x1f\xff\x01a"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "Huffman padding of zeros",
        "7541 5.2",
        frame(HEADERS, 5, 1, BODY + b"\x00\x85\xf2\xb2\x4a\x84\x80\x01a"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "Huffman with EOS",
        "7541 5.2",
        frame(HEADERS, 5, 1, BODY + b"\x00\x88\xf2\xb2\x4a\x84\xff\xff\xff\xff\x01a"),
        "COMPRESSION_ERROR",
    ),
    fatal(
        "a string that is cut",
        "7541 5.2",
        frame(HEADERS, 5, 1, BODY + b"\x00\x7f\x10ab"),
        "COMPRESSION_ERROR",
    ),
]
CASES = [*PREFACES, *FRAMES, *STATES, *BY_TYPE, *MESSAGES, *COMPRESSION]
