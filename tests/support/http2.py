"""A raw HTTP/2 client: sends exactly the frames that it is given and keeps those that come."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import hpack

from tests.support.wire import DEADLINE_S, Wire, connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE) = range(
    9
)
CONTINUATION = 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

CODES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> str:
        """Return the error's name of a RST_STREAM or GOAWAY."""
        at = 0 if self.kind == RST_STREAM else 4
        return CODES[int.from_bytes(self.payload[at : at + 4])]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame, good or bad."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", *pair) for pair in pairs))


def block(*fields: tuple[str, str]) -> bytes:
    """Return a header block that no dynamic table is needed for."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*f) for f in fields]))


def fields_of(path: str = "/", *more: tuple[str, str], method: str = "GET") -> Fields:
    """Return the fields of a request, pseudo-header fields first."""
    start = ((":method", method), (":scheme", "http"), (":path", path))
    return (*start, (":authority", "weirgate.test"), *more)


def headers(stream: int, fields: Fields, *, ends: bool = True) -> bytes:
    """Return a HEADERS frame for a whole request head."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block(*fields))


def get(stream: int, path: str = "/", *more: tuple[str, str]) -> bytes:
    """Return a GET request."""
    return headers(stream, fields_of(path, *more))


def decoded(decoder: hpack.Decoder, payload: bytes) -> list[tuple[str, str]]:
    """Return the fields of a block, whatever bytes they have."""
    fields = decoder.decode(payload, raw=True)
    return [(bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in fields]


class Http2:
    """A connection on which the preface was sent; frames are read as they are asked for."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.frames: list[Frame] = []
        self.closed = False
        self._decoder = hpack.Decoder()
        self._heads: dict[int, list[Fields]] = {}
        self.answers_settings = True

    async def send(self, *frames: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await self.wire.send(b"".join(frames))

    async def read(self) -> Frame | None:
        """Read the next frame; None = the connection has ended."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                head = await self.wire.reader.readexactly(9)
                length = int.from_bytes(head[:3])
                payload = await self.wire.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return None
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF
        found = Frame(kind, flags, stream, payload)
        self.frames.append(found)
        if kind == SETTINGS and not flags & ACK and self.answers_settings:
            await self.send(frame(SETTINGS, ACK))
        if kind == HEADERS:
            assert flags & END_HEADERS, "no CONTINUATION is expected here"
            self._heads.setdefault(stream, []).append(decoded(self._decoder, payload))
        return found

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Return the first frame that ``wanted`` accepts, of those that came and those to come."""
        for found in self.frames:
            if wanted(found):
                return found
        while (found := await self.read()) is not None:  # type: ignore[assignment]
            if wanted(found):
                return found
        raise AssertionError(f"the connection ended; frames: {self.frames}")

    async def answer(self, stream: int) -> "Answer":
        """Read the whole answer to a request."""
        await self.until(
            lambda f: (
                f.stream == stream
                and (
                    f.kind == RST_STREAM
                    or (f.kind in {DATA, HEADERS} and bool(f.flags & END_STREAM))
                )
            )
        )
        body = b"".join(f.payload for f in self.frames if f.kind == DATA and f.stream == stream)
        reset = next((f for f in self.frames if f.kind == RST_STREAM and f.stream == stream), None)
        return Answer(self._heads.get(stream, []), body, reset.code if reset else None)

    async def head(self, stream: int) -> Frame:
        """Read up to the first head of an answer."""
        return await self.until(lambda f: f.kind == HEADERS and f.stream == stream)

    async def goaway(self) -> str | None:
        """Read to the end; return the code of the last GOAWAY, None = there was none."""
        while await self.read() is not None:
            pass
        codes = [f.code for f in self.frames if f.kind == GOAWAY]
        return codes[-1] if codes else None


@dataclass(frozen=True)
class Answer:
    """What came for one request: interim heads, the head, trailers."""

    heads: list[Fields]
    body: bytes
    reset: str | None

    @property
    def status(self) -> int:
        """Return the status of the first head that is not interim; 0 = none came."""
        statuses = (int(dict(head).get(":status", "0")) for head in self.heads)
        return next((status for status in statuses if status >= 200), 0)

    def one(self, name: str) -> str | None:
        """Return the value of a field, wherever it came."""
        return next((v for head in self.heads for n, v in head if n == name), None)


@contextlib.asynccontextmanager
async def http2(
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    first: bytes = PREFACE + settings(),
) -> AsyncIterator[Http2]:
    """Connect and begin with ``first``."""
    async with connect(port, tls=tls, server_name=server_name) as wire:
        connection = Http2(wire)
        await connection.send(first)
        yield connection
