"""An HTTP/2 server on the h2 library, scripted per path, which also takes extended CONNECT."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.support.wire import DEADLINE_S

Fields = tuple[tuple[str, str], ...]
_CHUNK_BYTES = 16_384


class Stream:
    """One request as a behaviour sees it: the head is there, the body is read as it comes."""

    def __init__(self, connection: "Connection", number: int, headers: Fields) -> None:
        self.connection = connection
        self.number = number
        self.headers = headers
        self.trailers: Fields = ()
        self.ended = asyncio.Event()
        #: The code of the client's RST_STREAM; None = none came.
        self.reset_code: int | None = None
        self._parts: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        self._window = asyncio.Event()

    def one(self, name: str) -> str:
        """Return the value of a header, empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")

    async def part(self) -> bytes:
        """Return the next bytes of the body, and let as many more come; empty = the end."""
        data, size = await self._parts.get()
        if size:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.connection.http2.acknowledge_received_data(size, self.number)
            self.connection.flush()
        return data

    async def body(self) -> bytes:
        """Read to the end."""
        parts = []
        while data := await self.part():
            parts.append(data)
        return b"".join(parts)

    def head(self, status: int, *fields: tuple[str, str], ends: bool = False) -> None:
        """Send a head, or with an interim status one of several."""
        fields = ((":status", str(status)), *fields)
        self.connection.http2.send_headers(self.number, fields, end_stream=ends)
        self.connection.flush()

    async def send(self, data: bytes, *, ends: bool = False) -> None:
        """Send a part of the body, as the windows allow."""
        http2 = self.connection.http2
        while data:
            room = min(http2.local_flow_control_window(self.number), _CHUNK_BYTES)
            if room <= 0:
                self._window.clear()
                await self._window.wait()
                continue
            http2.send_data(self.number, data[:room])
            data = data[room:]
            self.connection.flush()
        if ends:
            http2.end_stream(self.number)
            self.connection.flush()

    def trailer(self, *fields: tuple[str, str]) -> None:
        """End with trailers."""
        self.connection.http2.send_headers(self.number, fields, end_stream=True)
        self.connection.flush()

    def reset(self, code: int) -> None:
        self.connection.http2.reset_stream(self.number, code)
        self.connection.flush()

    def take(self, event: h2.events.Event) -> None:
        """Take what came for this stream."""
        if isinstance(event, h2.events.DataReceived) and event.data:
            self._parts.put_nowait((event.data, event.flow_controlled_length or 0))
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = tuple((str(k), str(v)) for k, v in event.headers or ())
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            if isinstance(event, h2.events.StreamReset):
                self.reset_code = int(event.error_code or 0)
            self.end()

    def end(self) -> None:
        """Take the end of what the client sends."""
        self._parts.put_nowait((b"", 0))
        self.ended.set()
        self.open_window()

    def open_window(self) -> None:
        """Let ``send`` look again."""
        self._window.set()


Behaviour = Callable[[Stream], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection that the origin accepted."""

    def __init__(self, origin: "Http2Origin") -> None:
        self.origin = origin
        self.streams: dict[int, Stream] = {}
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.http2 = h2.connection.H2Connection(config)
        self.lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        codes = h2.settings.SettingCodes
        self.http2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.origin.streams_at_once,
                codes.ENABLE_CONNECT_PROTOCOL: int(self.origin.extended_connect),
            },
        )
        self.http2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self.http2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.origin.malformed.append(repr(error))
            self.flush()
            self.close()
            return
        for event in events:
            self._take(event)
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()
        for stream in self.streams.values():
            if not stream.ended.is_set():
                stream.end()

    def flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self.http2.data_to_send())

    def goaway(self) -> None:
        """Say good-bye to new requests; those that came are answered, then it is closed."""
        self.http2.close_connection(last_stream_id=max(self.streams, default=0))
        self.flush()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for stream in self.streams.values():
                stream.open_window()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.close()
        else:
            stream_id = getattr(event, "stream_id", None)
            if stream_id in self.streams:
                self.streams[stream_id].take(event)

    def _begin(self, event: h2.events.RequestReceived) -> None:
        assert event.stream_id is not None
        headers = tuple((str(k), str(v)) for k, v in event.headers or ())
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id, headers)
        self.origin.requests.append(stream)
        self.origin.run(stream)


class Http2Origin:
    """The origin: paths to behaviours; a path not named is answered with the body that came."""

    def __init__(self, *, streams_at_once: int = 100, extended_connect: bool = False) -> None:
        self.streams_at_once = streams_at_once
        self.extended_connect = extended_connect
        self.behaviours: dict[str, Behaviour] = {}
        self.connections: list[Connection] = []
        self.requests: list[Stream] = []
        self.malformed: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, path: str, behaviour: Behaviour) -> Self:
        """Script a path (without its query)."""
        self.behaviours[path] = behaviour
        return self

    def asked(self, path: str) -> list[Stream]:
        return [s for s in self.requests if s.one(":path").partition("?")[0] == path]

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

    def run(self, stream: Stream) -> None:
        """Let the path's behaviour answer; a client that went away is no failure."""
        behaviour = self.behaviours.get(stream.one(":path").partition("?")[0], echo)

        async def answer() -> None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                await behaviour(stream)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self) -> Connection:
        connection = Connection(self)
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


async def echo(stream: Stream) -> None:
    """Answer with the body that came."""
    body = await stream.body()
    stream.head(200, ("content-length", str(len(body))))
    await stream.send(body, ends=True)


async def never(stream: Stream) -> None:
    """Answer nothing, whatever deadline was set."""
    await stream.ended.wait()
    await asyncio.get_running_loop().create_future()
