"""What a row of the tables is, and the few words in which rows are written."""

from dataclasses import dataclass, field

HOST = b"Host: weirgate.test"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: weirgate.test\r\n\r\n"


@dataclass(frozen=True)
class Seen:
    """What the origin must have received for one request."""

    target: str = "/c"
    method: str = "GET"
    host: str | None = "weirgate.test"  # None = any one
    body: bytes = b""
    absent: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    trailers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RequestCase:
    """Bytes of a client; the answers it must get; the complete requests the origin must see."""

    id: str
    rfc: str
    raw: bytes
    statuses: tuple[frozenset[int], ...]
    reasons: frozenset[str] = frozenset()  # of the last answer, when Weirgate made it itself
    upstream: tuple[Seen, ...] = ()
    closes: bool = False
    may_be_silent: bool = False  # a close without an answer is as good


@dataclass(frozen=True)
class ResponseCase:
    """Bytes of an origin, and what the client must get for them."""

    id: str
    rfc: str
    raw: bytes
    outcome: str  # bad_gateway | broken | relayed
    closes: bool = False  # the origin closes behind its bytes
    method: str = "GET"
    status: int = 200
    body: bytes = b""
    reused: bool | None = False  # may the next request use the same upstream connection? None = any
    absent: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    trailers: tuple[tuple[str, str], ...] = ()
    reasons: frozenset[str] = frozenset({"upstream_bad_response"})


FRAMING = ("bad_request_framing",)


def refused(
    name: str,
    rfc: str,
    raw: bytes,
    *,
    status: int | tuple[int, ...] = 400,
    reason: str | tuple[str, ...] = FRAMING,
    silent: bool = False,
) -> RequestCase:
    """Return a row where nothing reaches the origin and the connection is closed."""
    return RequestCase(
        id=name,
        rfc=rfc,
        raw=raw,
        statuses=(frozenset([status] if isinstance(status, int) else status),),
        reasons=frozenset([reason] if isinstance(reason, str) else reason),
        closes=True,
        may_be_silent=silent,
    )


def passed(name: str, rfc: str, raw: bytes, *seen: Seen, closes: bool = False) -> RequestCase:
    """Return a row where each request is answered 200 and the origin sees exactly ``seen``."""
    expected = seen or (Seen(),)
    return RequestCase(
        id=name,
        rfc=rfc,
        raw=raw,
        statuses=(frozenset({200}),) * len(expected),
        upstream=expected,
        closes=closes,
    )


def head(*lines: bytes, start: bytes = b"GET /c HTTP/1.1", host: bytes | None = HOST) -> bytes:
    """Return a head; the Host line is put first unless ``host`` is None."""
    fields = lines if host is None else (host, *lines)
    return b"\r\n".join([start, *fields, b"", b""])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """Return a POST with these fields and these bytes behind the head."""
    return head(*lines, start=b"POST /c HTTP/1.1") + body


def chunks(body: bytes) -> bytes:
    """Return a chunked POST with these bytes as its body."""
    return post(b"Transfer-Encoding: chunked", body=body)
