"""An HTTP/2 endpoint that sends exactly the frames it is told to, good or bad."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import hpack

from tests.support.http2 import (
    ACK,
    CODES,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Fields,
    block,
    decoded,
    frame,
    settings,
)


@dataclass
class Connection:
    """One connection that the endpoint accepted."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    streams: dict[int, "Stream"] = field(default_factory=dict)
    resets: dict[int, str] = field(default_factory=dict)

    async def send(self, *frames: bytes) -> None:
        with contextlib.suppress(OSError):
            self.writer.write(b"".join(frames))
            await self.writer.drain()

    def close(self) -> None:
        self.writer.close()


@dataclass
class Stream:
    """One request: its head has come."""

    connection: Connection
    id: int
    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = ()
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False

    @property
    def path(self) -> str:
        return dict(self.fields)[":path"]

    async def send(self, *frames: bytes) -> None:
        await self.connection.send(*frames)


Behaviour = Callable[[Stream], Awaitable[None]]


def head(stream: int, *fields: tuple[str, str], status: str = "200", ends: bool = False) -> bytes:
    """Return the head of an answer."""
    flags = END_HEADERS | (END_STREAM if ends else 0)
    return frame(HEADERS, flags, stream, block((":status", status), *fields))


def data(stream: int, payload: bytes, *, ends: bool = True) -> bytes:
    return frame(DATA, END_STREAM if ends else 0, stream, payload)


def reset(stream: int, code: str) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack("!I", CODES.index(code)))


def goaway(last: int, code: str = "NO_ERROR") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack("!II", last, CODES.index(code)))


async def good(stream: Stream) -> None:
    """Read the request, then answer with ``good``."""
    await stream.ended.wait()
    await stream.send(head(stream.id), data(stream.id, b"good"))


class Endpoint:
    """Paths to behaviours; a path that is not named is answered well."""

    def __init__(self, first: bytes = settings(), *, answers_pings: bool = True) -> None:
        self.first = first
        self.answers_pings = answers_pings
        self.behaviours: dict[str, Behaviour] = {}
        self.otherwise: Behaviour = good
        self.connections: list[Connection] = []
        self.requests: list[Stream] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            await connection.send(self.first)
            decoder = hpack.Decoder()
            while True:
                start = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(start[:3]))
                await self._take(connection, decoder, start, payload)
        writer.close()

    async def _take(
        self, connection: Connection, decoder: hpack.Decoder, start: bytes, payload: bytes
    ) -> None:
        kind, flags, number = start[3], start[4], int.from_bytes(start[5:])
        known = connection.streams.get(number)
        if kind == SETTINGS and not flags & ACK and self.first:
            await connection.send(frame(SETTINGS, ACK))
        elif kind == PING and not flags & ACK and self.answers_pings:
            await connection.send(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            connection.resets[number] = CODES[int.from_bytes(payload)]
        elif kind == DATA and known is not None:
            known.body += payload
        elif kind == HEADERS:
            assert flags & END_HEADERS, "requests of the tests are small"
            fields = decoded(decoder, payload)
            if known is not None:
                known.trailers = fields
            else:
                known = connection.streams[number] = Stream(connection, number, fields)
                self.requests.append(known)
                path = known.path.partition("?")[0]
                task = asyncio.ensure_future(self.behaviours.get(path, self.otherwise)(known))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if known is not None and kind in {DATA, HEADERS} and flags & END_STREAM:
            known.ended.set()

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for connection in self.connections:
            connection.writer.transport.abort()


@contextlib.asynccontextmanager
async def endpoints(*ready: Endpoint) -> AsyncIterator[None]:
    """Run endpoints on ports of their own."""
    servers = []
    for endpoint in ready:
        server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
        endpoint.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield
    finally:
        for endpoint, server in zip(ready, servers, strict=True):
            server.close()
            endpoint.stop()
