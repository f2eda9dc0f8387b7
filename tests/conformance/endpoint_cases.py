"""What HTTP/2 endpoints may answer, and what the client must get: here the heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.h2_endpoint import data, head
from tests.support.http2 import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Fields,
    block,
    frame,
)

Frames = Callable[[int], bytes]
BAD, EARLY = "upstream_bad_response", "upstream_closed_early"


@dataclass(frozen=True)
class EndpointCase:
    """What the endpoint sends for a request (a GET unless told), and what must come of it."""

    id: str
    rfc: str
    frames: Frames
    outcome: str  # refused: 502 | cut: or visibly not whole | surplus | relayed
    reasons: tuple[str, ...] = ()
    closes: bool = False
    method: str = "GET"
    status: int = 200
    body: bytes = b""
    interim: tuple[int, ...] = ()
    trailers: Fields = ()


def refused(
    name: str, rfc: str, frames: Frames, *reasons: str, closes: bool = False
) -> EndpointCase:
    return EndpointCase(name, rfc, frames, "refused", reasons or (BAD, EARLY), closes)


def surplus(name: str, rfc: str, frames: Frames, body: bytes) -> EndpointCase:
    """Return a row whose client may have had all that was announced when the fault is seen."""
    return EndpointCase(name, rfc, frames, "surplus", (BAD, EARLY), body=body)


def cut(name: str, rfc: str, frames: Frames, *, closes: bool = False) -> EndpointCase:
    return EndpointCase(name, rfc, frames, "cut", (BAD, EARLY), closes)


def relayed(
    name: str,
    rfc: str,
    frames: Frames,
    body: bytes = b"",
    *,
    status: int = 200,
    method: str = "GET",
    interim: Sequence[int] = (),
    trailers: Fields = (),
    closes: bool = False,
) -> EndpointCase:
    return EndpointCase(
        name,
        rfc,
        frames,
        "relayed",
        (),
        closes,
        method,
        status,
        body,
        tuple(interim),
        trailers,
    )


def raw(*fields: tuple[str, str], ends: bool = False) -> Frames:
    """Return frames with exactly these fields as the head, and a body."""

    def frames(s: int) -> bytes:
        start = frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), s, block(*fields))
        return start if ends else start + data(s, b"POISON")

    return frames


def _heads() -> list[EndpointCase]:
    ok = (":status", "200")
    rows: dict[str, tuple[tuple[str, str], ...]] = {
        "no status": (("a", "b"),),
        "nothing": (),
        "two statuses": (ok, (":status", "204")),
        "status of letters": ((":status", "abc"),),
        "status of two digits": ((":status", "20"),),
        "status of four digits": ((":status", "2000"),),
        "status below 100": ((":status", "099"),),
        "status empty": ((":status", ""),),
        "status with a sign": ((":status", "+20"),),
        "status with a space": ((":status", "200 "),),
        "a request's pseudo-header": (ok, (":path", "/")),
        "an unknown pseudo-header": (ok, (":x", "y")),
        "status behind a field": (("a", "b"), ok),
        "upper-case name": (ok, ("X-Up", "y")),
        "empty name": (ok, ("", "y")),
        "name with a space": (ok, ("a b", "y")),
        "name with a colon": (ok, ("a:b", "y")),
        "name with CR LF": (ok, ("a\r\nb", "y")),
        "value with CR LF": (ok, ("a", "y\r\nset-cookie: evil=1")),
        "value with LF": (ok, ("a", "y\nb")),
        "value with CR": (ok, ("a", "y\rb")),
        "value with NUL": (ok, ("a", "y\0")),
        "value with DEL": (ok, ("a", "y\x7f")),
        "connection": (ok, ("connection", "close")),
        "transfer-encoding": (ok, ("transfer-encoding", "chunked")),
        "keep-alive": (ok, ("keep-alive", "1")),
        "proxy-connection": (ok, ("proxy-connection", "close")),
        "upgrade": (ok, ("upgrade", "h2c")),
        "content-length of letters": (ok, ("content-length", "x")),
        "content-length with a sign": (ok, ("content-length", "+6")),
        "content-length twice": (ok, ("content-length", "6"), ("content-length", "6")),
        "two content-lengths": (ok, ("content-length", "6"), ("content-length", "7")),
        "content-length as a list": (ok, ("content-length", "6, 6")),
        "content-length negative": (ok, ("content-length", "-1")),
        "content-length beyond 64 bits": (ok, ("content-length", "9" * 30)),
    }
    return [refused(name, "9113 8.2, 8.3", raw(*fields)) for name, fields in rows.items()]


def _large() -> list[EndpointCase]:
    ok = block((":status", "200"))
    plain = [block((f"x-{n}", "y" * 8000)) for n in range(10)]
    # One entry of the dynamic table, used again and again: 4 KB for each byte.
    bomb = ok + b"\x40\x01a\x7f\x81\x1e" + b"y" * 3968 + b"\xbe" * 200

    def continued(parts: Sequence[bytes], *, ends: bool = True) -> Frames:
        def frames(s: int) -> bytes:
            rest = [frame(CONTINUATION, 0, s, part) for part in parts]
            last = frame(CONTINUATION, END_HEADERS, s) if ends else b""
            return frame(HEADERS, 0, s, ok) + b"".join(rest) + last + data(s, b"POISON")

        return frames

    too_large = ("upstream_header_too_large", EARLY)
    return [
        refused("a head over 64 KiB", "9113 10.5.1", continued(plain), *too_large),
        refused(
            "an HPACK bomb",
            "7541 7.3",
            lambda s: frame(HEADERS, END_HEADERS, s, bomb) + data(s, b"POISON"),
            *too_large,
            BAD,
        ),
        refused("CONTINUATION without end", "9113 10.5", continued([b""] * 5000, ends=False)),
        refused(
            "CONTINUATION with fields without end",
            "9113 10.5",
            continued([block(("a", "b"))] * 3000, ends=False),
        ),
        relayed(
            "a head of 20 KiB",
            "9113 6.10",
            lambda s: (
                frame(HEADERS, 0, s, ok)
                + frame(CONTINUATION, 0, s, plain[0])
                + frame(CONTINUATION, END_HEADERS, s, plain[1])
                + data(s, b"whole")
            ),
            b"whole",
        ),
    ]


def _interim() -> list[EndpointCase]:
    def some(count: int, status: str = "103") -> Frames:
        return lambda s: (
            head(s, ("link", "</a>"), status=status) * count + head(s) + data(s, b"whole")
        )

    rows = [
        relayed(f"{n} interim answers", "9110 15.2", some(n), b"whole", interim=[103] * n)
        for n in (0, 1, 2, 16)
    ]
    return [
        *rows,
        relayed("100 unasked", "9110 15.2.1", some(1, "100"), b"whole", interim=[100]),
        relayed("102", "2518 10.1", some(1, "102"), b"whole", interim=[102]),
        refused("17 interim answers", "9110 15.2", some(17)),
        refused("400 interim answers", "9110 15.2", some(400)),
        refused("101", "9113 8.6", some(1, "101")),
        refused(
            "an interim answer with END_STREAM",
            "9113 8.1",
            lambda s: head(s, status="103", ends=True),
        ),
        cut(
            "DATA behind an interim answer",
            "9113 8.1",
            lambda s: head(s, status="103") + data(s, b"x"),
        ),
        refused(
            "only an interim answer",
            "9113 8.1",
            lambda s: head(s, status="103"),
            EARLY,
            closes=True,
        ),
    ]


HEADS = [*_heads(), *_large(), *_interim()]
