"""A real HTTP origin on a raw socket, scripted per path, that remembers every byte it received."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from tests.support.strict import (
    READER_LIMIT,
    MalformedError,
    Request,
    RequestHead,
    Response,
    TruncatedError,
    read_request_body,
    read_request_head,
)

RECORD_LIMIT = 1 << 20


class RecordingReader(asyncio.StreamReader):
    """A stream reader that keeps a copy of the first megabyte."""

    def __init__(self) -> None:
        super().__init__(limit=READER_LIMIT)
        self.record = bytearray()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override] # the loop feeds bytes
        if len(self.record) < RECORD_LIMIT:
            self.record += data
        super().feed_data(data)


class Connection:
    """One connection that the origin accepted."""

    def __init__(self, number: int, reader: RecordingReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.requests: list[Request] = []
        self.ended = asyncio.Event()

    @property
    def received(self) -> bytes:
        return bytes(self.reader.record)

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer has closed it, and we have not run since
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Exchange:
    """One request as a behaviour sees it: the head is read, the body is not yet."""

    def __init__(self, origin: "Origin", connection: Connection, head: RequestHead) -> None:
        self.origin = origin
        self.connection = connection
        self.head = head
        self.request: Request | None = None

    async def read(self) -> Request:
        """Read the body; from here on the request counts as complete."""
        if self.request is None:
            self.request = await read_request_body(self.connection.reader, self.head)
            self.connection.requests.append(self.request)
            self.origin.requests.append(self.request)
        return self.request

    async def send(self, data: bytes) -> None:
        self.connection.writer.write(data)
        await self.connection.writer.drain()

    def close(self) -> None:
        self.connection.writer.close()


Behaviour = Callable[[Exchange], Awaitable[None]]


class Origin:
    """The origin: paths to behaviours; a path not named is echoed."""

    def __init__(self, name: str = "origin") -> None:
        self.name = name
        self.behaviours: dict[str, Behaviour] = {}
        self.connections: list[Connection] = []
        self.heads: list[RequestHead] = []
        self.requests: list[Request] = []
        self.malformed: list[str] = []
        self.truncated: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, path: str, behaviour: Behaviour) -> Self:
        """Script a path (the target without its query)."""
        self.behaviours[path] = behaviour
        return self

    def sockets_open(self) -> int:
        return sum(not connection.ended.is_set() for connection in self.connections)

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocol, "127.0.0.1", port or self.port, ssl=tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and reset the open ones; ``start`` brings the port back."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.connections:
            if not connection.ended.is_set():
                connection.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = RecordingReader()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection(len(self.connections), reader, writer)
            self.connections.append(connection)
            task = asyncio.get_running_loop().create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return asyncio.StreamReaderProtocol(reader, connected)

    async def _serve(self, connection: Connection) -> None:
        try:
            while (head := await read_request_head(connection.reader)) is not None:
                self.heads.append(head)
                path = head.target.partition("?")[0]
                exchange = Exchange(self, connection, head)
                await self.behaviours.get(path, echo)(exchange)
                if connection.writer.is_closing():
                    break
                await exchange.read()
        except TruncatedError as error:
            self.truncated.append(str(error))  # given up by its sender: nothing wrong passed on
        except MalformedError as error:
            self.malformed.append(f"{error} in {connection.received[-2000:]!r}")
        except OSError:
            pass  # the peer went away: what it had sent is recorded
        finally:
            connection.ended.set()
            connection.writer.close()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()


@contextlib.asynccontextmanager
async def origins(*names: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[list[Origin]]:
    """Run an origin per name; each answers with its name in ``x-origin``."""
    running = [Origin(name) for name in names or ("origin",)]
    try:
        for origin in running:
            await origin.start(tls=tls)
        yield running
    finally:
        for origin in running:
            await origin.stop()


@contextlib.asynccontextmanager
async def one_origin(tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    async with origins(tls=tls) as (origin,):
        yield origin


def message(status: int, body: bytes = b"", *fields: str, phrase: str = "X") -> bytes:
    """Return a well-formed response with its Content-Length."""
    lines = [f"HTTP/1.1 {status} {phrase}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


async def echo(exchange: Exchange) -> None:
    """Answer what was received: the raw head in base64, the body's length and SHA-256."""
    if any(name.lower() == "expect" for name, _ in exchange.head.headers):
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    request = await exchange.read()
    seen = {
        "origin": exchange.origin.name,
        "connection": exchange.connection.number,
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "head": base64.b64encode(request.head).decode(),
        "length": len(request.body),
        "sha256": hashlib.sha256(request.body).hexdigest(),
        "trailers": request.trailers,
    }
    answer = message(
        200,
        json.dumps(seen).encode(),
        "Content-Type: application/json",
        f"X-Origin: {exchange.origin.name}",
        f"X-Origin-Connection: {exchange.connection.number}",
    )
    if request.method == "HEAD":
        answer = answer[: answer.index(b"\r\n\r\n") + 4]
    await exchange.send(answer)


def answer(status: int, body: bytes = b"", *fields: str) -> Behaviour:
    """Read the request, then answer with a Content-Length."""

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(message(status, body, *fields))

    return behave


def early(status: int, body: bytes = b"") -> Behaviour:
    """Answer and close without having read the body."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(message(status, body, "Connection: close"))
        exchange.close()

    return behave


def verbatim(data: bytes, *, close: bool = False, then: bytes = b"") -> Behaviour:
    """Read the request, send exactly these bytes, and close if asked to."""

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(data)
        if then:
            await exchange.send(then)
        if close:
            exchange.close()

    return behave


def chunked(
    parts: Sequence[bytes], *trailers: str, gates: Sequence[asyncio.Event] = ()
) -> Behaviour:
    """Answer in chunks; the n-th gate is awaited before the n-th chunk."""

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, part in enumerate(parts):
            if number < len(gates):
                await gates[number].wait()
            await exchange.send(b"%x\r\n%s\r\n" % (len(part), part))
        ending = "".join(f"{line}\r\n" for line in trailers).encode()
        await exchange.send(b"0\r\n" + ending + b"\r\n")

    return behave


def held(event: asyncio.Event, status: int = 200, body: bytes = b"held") -> Behaviour:
    """Read the request and answer only when the event is set."""

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await event.wait()
        await exchange.send(message(status, body))

    return behave


def reset_midway(body: bytes, announced: int) -> Behaviour:
    """Announce a length, send less, reset the connection."""

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(message(200, body).replace(b"%d" % len(body), b"%d" % announced, 1))
        exchange.connection.reset()

    return behave


async def upgrade_echo(exchange: Exchange) -> None:
    """Switch protocols, then send back every byte until the client is done."""
    await exchange.read()
    await exchange.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    )
    while data := await exchange.connection.reader.read(1 << 16):
        await exchange.send(data)
    exchange.close()


@dataclass(frozen=True)
class Echoed:
    """What ``echo`` said that it had received."""

    origin: str
    connection: int
    method: str
    target: str
    headers: list[list[str]]
    head: bytes
    length: int
    sha256: str
    trailers: list[list[str]]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


def echoed(response: Response) -> Echoed:
    """Read the answer of ``echo``."""
    assert response.status == 200, (response.head, response.body)
    seen = json.loads(response.body)
    return Echoed(**{**seen, "head": base64.b64decode(seen["head"])})


async def _serve_until_killed(port: int) -> None:
    origin = Origin(f"process-{os.getpid()}")
    await origin.start(port)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":  # an origin that can be killed: see peers.killable
    asyncio.run(_serve_until_killed(int(sys.argv[1])))
