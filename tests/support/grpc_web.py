"""gRPC-Web by hand: its frames, its trailers in the body, and its text form in base64."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

_TRAILER = 0x80
#: Pieces of the text form, each padded for itself where a server encoded it for itself.
_PIECE = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class WebAnswer:
    """What the body of an answer holds."""

    messages: list[bytes]
    trailers: dict[str, str]


def framed(*messages: bytes) -> bytes:
    """Return the body of a request."""
    return b"".join(b"\0" + len(m).to_bytes(4) + m for m in messages)


def as_text(body: bytes) -> bytes:
    """Return a body in the text form."""
    return base64.b64encode(body)


def of_text(body: bytes) -> bytes:
    """Read the text form: base64, in one piece or in several."""
    pieces = _PIECE.findall(body)
    assert b"".join(pieces) == body, body[:200]
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def read(body: bytes) -> WebAnswer:
    """Read the body of an answer to its end; the trailers are its last frame, and there once."""
    messages: list[bytes] = []
    trailers: dict[str, str] | None = None
    for flags, payload in _frames(body):
        assert trailers is None, "a frame behind the trailers"
        if flags & _TRAILER:
            trailers = _fields(payload)
        else:
            messages.append(payload)
    return WebAnswer(messages, trailers or {})


def _frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + 5])
        assert at + 5 + size <= len(body), f"cut off: {body[at : at + 50]!r}"
        yield body[at], body[at + 5 : at + 5 + size]
        at += 5 + size


def _fields(block: bytes) -> dict[str, str]:
    """Read trailers, which are written as in HTTP/1.1, with names in lower case."""
    lines = [line for line in block.decode().split("\r\n") if line]
    pairs = [line.split(":", 1) for line in lines]
    assert all(name == name.lower() for name, _ in pairs), lines
    return {name: value.strip() for name, value in pairs}
