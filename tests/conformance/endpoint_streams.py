"""What HTTP/2 endpoints may answer, and what the client must get: bodies, order, resets."""

import struct

from tests.conformance.endpoint_cases import (
    EARLY,
    EndpointCase,
    Frames,
    cut,
    refused,
    relayed,
    surplus,
)
from tests.support.h2_endpoint import data, goaway, head, reset
from tests.support.http2 import (
    CODES,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    block,
    fields_of,
    frame,
    headers,
    settings,
)


def trailed(fields: Fields) -> Frames:
    return lambda s: head(s) + data(s, b"a", ends=False) + headers(s, fields)


def whole(s: int) -> bytes:
    return head(s) + data(s, b"whole")


def pushed(s: int) -> bytes:
    promise = struct.pack("!I", 2) + block(*fields_of("/pushed"))
    return frame(PUSH_PROMISE, END_HEADERS, s, promise)


def resets(code: str, *, after: Frames = lambda _: b"") -> Frames:
    return lambda s: after(s) + reset(s, code)


def half(s: int) -> bytes:
    return head(s, ("content-length", "9")) + data(s, b"abc", ends=False)


def _bodies() -> list[EndpointCase]:
    def sized(length: int, *parts: bytes, ends: bool = True) -> Frames:
        def frames(s: int) -> bytes:
            last = len(parts) - 1
            return head(s, ("content-length", str(length))) + b"".join(
                data(s, part, ends=ends and n == last) for n, part in enumerate(parts)
            )

        return frames

    end = (("x-sum", "1"),)
    return [
        cut("less than content-length", "9113 8.1.1", sized(10, b"abc")),
        cut("less than content-length in two", "9113 8.1.1", sized(10, b"abc", b"def")),
        cut(
            "nothing of content-length",
            "9113 8.1.1",
            lambda s: head(s, ("content-length", "5"), ends=True),
        ),
        cut("an empty DATA for content-length", "9113 8.1.1", sized(5, b"")),
        cut("more than content-length", "9113 8.1.1", sized(3, b"abcdef")),
        surplus("more than content-length in two", "9113 8.1.1", sized(3, b"abc", b"def"), b"abc"),
        surplus("something of content-length 0", "9113 8.1.1", sized(0, b"abc"), b""),
        cut(
            "trailers before content-length",
            "9113 8.1.1",
            lambda s: sized(9, b"abc", ends=False)(s) + headers(s, end),
        ),
        relayed("content-length", "9113 8.1.1", sized(6, b"abc", b"def"), b"abcdef"),
        relayed("no content-length", "9113 8.1.1", lambda s: head(s) + data(s, b"abc"), b"abc"),
        relayed(
            "content-length 0", "9113 8.1.1", lambda s: head(s, ("content-length", "0"), ends=True)
        ),
        relayed(
            "padded DATA",
            "9113 6.1",
            lambda s: head(s) + frame(DATA, END_STREAM | PADDED, s, b"\x03abc\0\0\0"),
            b"abc",
        ),
        relayed(
            "empty DATA between",
            "9113 6.1",
            lambda s: (
                head(s) + data(s, b"a", ends=False) + data(s, b"", ends=False) * 20 + data(s, b"b")
            ),
            b"ab",
        ),
        relayed("204", "9110 15.3.5", lambda s: head(s, status="204", ends=True), status=204),
        relayed(
            "304 with a length",
            "9110 15.4.5",
            lambda s: head(s, ("content-length", "5"), status="304", ends=True),
            status=304,
        ),
        relayed(
            "HEAD with a length",
            "9110 9.3.2",
            lambda s: head(s, ("content-length", "5"), ends=True),
            method="HEAD",
        ),
        relayed(
            "204 with a body",
            "9110 15.3.5",
            lambda s: head(s, status="204") + data(s, b"POISON"),
            status=204,
        ),
        relayed(
            "304 with a body",
            "9110 15.4.5",
            lambda s: head(s, status="304") + data(s, b"POISON"),
            status=304,
        ),
        relayed(
            "trailers",
            "9113 8.1",
            lambda s: head(s) + data(s, b"a", ends=False) + headers(s, end),
            b"a",
            trailers=end,
        ),
        relayed(
            "trailers and no body", "9113 8.1", lambda s: head(s) + headers(s, end), trailers=end
        ),
        *[
            cut(f"trailers with {name}", "9113 8.1", trailed(fields))
            for name, fields in {
                ":status": ((":status", "200"),),
                ":path": ((":path", "/"),),
                "a pseudo-header at the end": (("a", "b"), (":status", "200")),
                "an upper-case name": (("X-Sum", "1"),),
                "CR LF": (("x", "y\r\nz: 1"),),
                "connection": (("connection", "close"),),
            }.items()
        ],
        cut(
            "trailers without END_STREAM",
            "9113 8.1",
            lambda s: head(s) + data(s, b"a", ends=False) + headers(s, end, ends=False),
        ),
        cut("a second head", "9113 8.1", lambda s: head(s) + head(s) + data(s, b"a")),
        relayed(
            "trailers that may not trail",
            "9110 6.5.1",
            lambda s: (
                head(s)
                + data(s, b"a", ends=False)
                + headers(s, (("content-length", "9"), ("set-cookie", "a"), *end))
            ),
            b"a",
            trailers=end,
        ),
    ]


def _order() -> list[EndpointCase]:
    fatal: dict[str, Frames] = {
        "DATA before HEADERS": lambda s: data(s, b"x") + whole(s),
        "DATA on a stream never opened": lambda s: data(s + 100, b"x") + head(s),
        "HEADERS on a stream never opened": lambda s: head(s + 100) + head(s),
        "HEADERS on an even stream": lambda s: head(2) + head(s),
        "DATA on stream 0": lambda s: data(0, b"x") + head(s),
        "HEADERS on stream 0": lambda s: head(0) + head(s),
        "PUSH_PROMISE": lambda s: pushed(s) + head(s),
        "an unfinished block": lambda s: (
            frame(HEADERS, 0, s, block((":status", "200"))) + data(s, b"x")
        ),
        "a broken block": lambda s: frame(HEADERS, END_HEADERS, s, b"\xff\xff\xff\xff\xff\xff"),
        "an index beyond the tables": lambda s: frame(HEADERS, END_HEADERS, s, b"\x88\xfe"),
        "a table size beyond the setting": lambda s: frame(
            HEADERS, END_HEADERS, s, b"\x3f\xe2\x1f\x88"
        ),
        "a frame over the maximum": lambda s: head(s) + data(s, b"x" * 16_385),
        "SETTINGS of a wrong size": lambda s: frame(SETTINGS, 0, 0, bytes(5)) + head(s),
        "SETTINGS with a window beyond 2^31-1": lambda s: settings((4, 1 << 31)) + head(s),
        "WINDOW_UPDATE of 0": lambda s: frame(WINDOW_UPDATE, 0, 0, bytes(4)) + head(s),
        "PING of a wrong size": lambda s: frame(PING, 0, 0, bytes(6)) + head(s),
        "CONTINUATION alone": lambda s: (
            frame(CONTINUATION, END_HEADERS, s, block(("a", "b"))) + head(s)
        ),
        "HTTP/1.1": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
        "noise": lambda _: bytes(range(256)) * 4,
    }
    return [
        *[cut(name, "9113 5, 6", frames) for name, frames in fatal.items()],
        relayed(
            "an unknown frame",
            "9113 4.1",
            lambda s: frame(0xFA, 0xFF, s, b"x") + whole(s),
            b"whole",
        ),
        relayed(
            "PRIORITY", "9113 5.3", lambda s: frame(PRIORITY, 0, s, bytes(5)) + whole(s), b"whole"
        ),
        relayed(
            "DATA behind the end", "9113 5.1", lambda s: whole(s) + data(s, b"POISON"), b"whole"
        ),
        relayed("HEADERS behind the end", "9113 5.1", lambda s: whole(s) + head(s), b"whole"),
        relayed(
            "RST_STREAM behind the end",
            "9113 8.1",
            lambda s: whole(s) + reset(s, "NO_ERROR"),
            b"whole",
        ),
        relayed("closes behind the end", "9113 5.4.1", whole, b"whole", closes=True),
        cut("closes before the head", "9113 5.4.1", lambda _: b"", closes=True),
        cut(
            "closes in a frame",
            "9113 5.4.1",
            lambda s: (head(s) + data(s, b"abc"))[:-1],
            closes=True,
        ),
        cut("closes in a frame's header", "9113 5.4.1", lambda s: head(s) + b"\0\0", closes=True),
        cut("closes behind the head", "9113 5.4.1", head, closes=True),
        cut(
            "closes in the body",
            "9113 5.4.1",
            lambda s: head(s) + data(s, b"abc", ends=False),
            closes=True,
        ),
        cut(
            "closes in a body with a length",
            "9113 5.4.1",
            lambda s: head(s, ("content-length", "9")) + data(s, b"abc", ends=False),
            closes=True,
        ),
        relayed(
            "GOAWAY above, then the answer", "9113 6.8", lambda s: goaway(s) + whole(s), b"whole"
        ),
        relayed(
            "GOAWAY of 2^31-1, then the answer",
            "9113 6.8",
            lambda s: goaway((1 << 31) - 1) + whole(s),
            b"whole",
            closes=True,
        ),
        relayed(
            "GOAWAY behind the head",
            "9113 6.8",
            lambda s: head(s) + goaway(s) + data(s, b"whole"),
            b"whole",
            closes=True,
        ),
        cut(
            "GOAWAY behind the head, then the end",
            "9113 6.8",
            lambda s: head(s) + data(s, b"a", ends=False) + goaway(s),
            closes=True,
        ),
        cut("GOAWAY above, then the end", "9113 6.8", goaway, closes=True),
        cut(
            "GOAWAY with an error",
            "9113 6.8",
            lambda s: goaway(s, "ENHANCE_YOUR_CALM"),
            closes=True,
        ),
        cut("GOAWAY that grows", "9113 6.8", lambda s: goaway(0) + goaway(s) + whole(s)),
    ]


def _resets() -> list[EndpointCase]:
    rows = []
    for code in CODES:
        rows += [
            refused(f"{code} before the head", "9113 6.4", resets(code), EARLY),
            cut(f"{code} behind the head", "9113 6.4", resets(code, after=head)),
            cut(f"{code} in the body", "9113 6.4", resets(code, after=half)),
        ]
    return rows


STREAMS = [*_bodies(), *_order(), *_resets()]
