"""An HTTP/2 server on the h2 library, scripted per path, which also takes extended CONNECT."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import h2.events
import h2.exceptions
import h2.settings

from tests.support.http2 import GOAWAY, frame
from tests.support.http2_streams import Connection, Stream, decoded
from tests.support.wire import DEADLINE_S


class Request(Stream):
    """One request as a behaviour sees it: the head is there, the body is read as it comes."""

    def head(self, status: int, *fields: tuple[str, str], ends: bool = False) -> None:
        """Send a head, or with an interim status one of several."""
        self.send_fields((":status", str(status)), *fields, ends=ends)

    def trailer(self, *fields: tuple[str, str]) -> None:
        """End with trailers."""
        self.send_fields(*fields, ends=True)


Behaviour = Callable[[Request], Awaitable[None]]


class Accepted(Connection):
    """One connection that the origin accepted."""

    def __init__(self, origin: "Http2Origin") -> None:
        super().__init__(client_side=False)
        self.origin = origin
        self.malformed = origin.malformed
        self.requests: dict[int, Request] = {}
        #: Requests that came after ``hold_back``: nobody ever looks at them.
        self.forgotten: list[Request] = []
        self._last: int | None = None

    def hold_back(self) -> None:
        """Begin nothing that comes from here on."""
        self._last = max(self.requests, default=0)

    def goodbye(self) -> None:
        """Say GOAWAY for what was held back; the rest is still answered, unlike the library's."""
        assert self._last is not None
        self.flush()
        self.write(frame(GOAWAY, payload=struct.pack("!II", self._last, 0)))

    def stream(self, number: int) -> Stream | None:
        return self.requests.get(number)

    def all_streams(self) -> list[Stream]:
        return list(self.requests.values())

    def begin(self) -> None:
        codes = h2.settings.SettingCodes
        self.http2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.origin.streams_at_once,
                codes.ENABLE_CONNECT_PROTOCOL: int(self.origin.extended_connect),
            },
        )
        super().begin()

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            number = event.stream_id or 0
            request = self.requests[number] = Request(self, number)
            request.headers = decoded(event.headers)
            if self._last is None:
                self.origin.run(request)
            else:
                self.forgotten.append(request)
        super().take(event)
        if self.goaway is not None:
            self.close()


class Http2Origin:
    """The origin: paths to behaviours; a path not named is answered with the body that came."""

    def __init__(self, *, streams_at_once: int = 100, extended_connect: bool = False) -> None:
        self.streams_at_once = streams_at_once
        self.extended_connect = extended_connect
        self.behaviours: dict[str, Behaviour] = {}
        self.connections: list[Accepted] = []
        self.requests: list[Request] = []
        self.malformed: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, path: str, behaviour: Behaviour) -> Self:
        """Script a path (without its query)."""
        self.behaviours[path] = behaviour
        return self

    def asked(self, path: str) -> list[Request]:
        return [r for r in self.requests if r.one(":path").partition("?")[0] == path]

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def run(self, request: Request) -> None:
        """Let the path's behaviour answer; a client that went away is no failure."""
        self.requests.append(request)
        behaviour = self.behaviours.get(request.one(":path").partition("?")[0], echo)

        async def answer() -> None:
            try:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    await behaviour(request)
            finally:
                request.leave()

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self) -> Accepted:
        connection = Accepted(self)
        self.connections.append(connection)
        return connection


@contextlib.asynccontextmanager
async def http2_origin(
    tls: ssl.SSLContext | None = None,
    *,
    streams_at_once: int = 100,
    extended_connect: bool = False,
) -> AsyncIterator[Http2Origin]:
    """Run an origin, over TLS where a context is given (its ALPN is set to h2)."""
    origin = Http2Origin(streams_at_once=streams_at_once, extended_connect=extended_connect)
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    await origin.start(tls)
    try:
        yield origin
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await origin.stop()


def reply(status: int, body: bytes = b"", *fields: tuple[str, str]) -> Behaviour:
    """Read the request, then answer."""

    async def behave(request: Request) -> None:
        await request.body()
        request.head(status, *fields, ends=not body)
        if body:
            await request.send(body, ends=True)

    return behave


def trailing(body: bytes, *trailers: tuple[str, str]) -> Behaviour:
    """Read the request, then answer with trailers."""

    async def behave(request: Request) -> None:
        await request.body()
        request.head(200)
        await request.send(body)
        request.trailer(*trailers)

    return behave


async def echo(request: Request) -> None:
    """Answer with the body that came."""
    body = await request.body()
    request.head(200, ("content-length", str(len(body))))
    await request.send(body, ends=True)


async def never(request: Request) -> None:
    """Answer nothing, whatever deadline was set."""
    await request.connection.lost.wait()
