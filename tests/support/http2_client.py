"""An HTTP/2 client on the h2 library: whole exchanges, and streams that stay open both ways."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import h2.events
import h2.settings

from tests.support.http2_streams import Connection, Fields, Stream, decoded
from tests.support.wire import DEADLINE_S

WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Fields
    body: bytes
    trailers: Fields
    reset_code: int | None

    def one(self, name: str) -> str:
        """Return the value of a header or trailer, empty where there is none."""
        fields = (*self.headers, *self.trailers)
        return next((value for key, value in fields if key == name), "")


class Call(Stream):
    """One request of ours."""

    def __init__(self, connection: Connection, number: int) -> None:
        super().__init__(connection, number)
        self.interim: list[Fields] = []
        self._head = asyncio.Event()

    async def status(self) -> int:
        """Wait for the head; return its status, 0 = the stream ended without one."""
        async with asyncio.timeout(DEADLINE_S):
            await self._head.wait()
        return int(self.one(":status") or 0)

    async def exactly(self, size: int) -> bytes:
        """Read at least so many bytes, which must then be all that came."""
        got = b""
        async with asyncio.timeout(DEADLINE_S):
            while len(got) < size:
                part = await self.part()
                assert part, f"ended after {got!r}"
                got += part
        assert len(got) == size, got
        return got

    async def reply(self) -> Reply:
        """Read the whole answer."""
        async with asyncio.timeout(DEADLINE_S):
            body = await self.body()
        status = await self.status()
        return Reply(status, self.headers, body, self.trailers, self.reset_code)

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.InformationalResponseReceived):
            self.interim.append(decoded(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            self.headers = decoded(event.headers)
            self._head.set()
        super().take(event)

    def end(self) -> None:
        self._head.set()
        super().end()


class Http2Client(Connection):
    """A connection on which we ask."""

    def __init__(self) -> None:
        super().__init__(client_side=True)
        self.calls: dict[int, Call] = {}
        self.settled = asyncio.Event()

    def stream(self, number: int) -> Stream | None:
        return self.calls.get(number)

    def all_streams(self) -> list[Stream]:
        return list(self.calls.values())

    def begin(self) -> None:
        codes = h2.settings.SettingCodes
        self.http2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={codes.ENABLE_PUSH: 0, codes.INITIAL_WINDOW_SIZE: WINDOW_BYTES},
        )
        super().begin()
        self.http2.increment_flow_control_window(WINDOW_BYTES)

    @property
    def extended_connect(self) -> bool:
        """Whether the server takes RFC 8441's CONNECT."""
        return bool(self.http2.remote_settings.enable_connect_protocol)

    def call(self, *fields: tuple[str, str], ends: bool = True) -> Call:
        """Begin a request with all its fields, pseudo-header fields first."""
        number = self.http2.get_next_available_stream_id()
        call = self.calls[number] = Call(self, number)
        call.send_fields(*fields, ends=ends)
        return call

    async def ask(
        self,
        path: str = "/",
        *more: tuple[str, str],
        method: str = "GET",
        body: bytes = b"",
        authority: str = "weirgate.test",
    ) -> Reply:
        """Send a whole request and read the whole answer."""
        start = ((":method", method), (":scheme", "http"), (":path", path))
        call = self.call(*start, (":authority", authority), *more, ends=not body)
        async with asyncio.timeout(DEADLINE_S):
            if body:
                await call.send(body, ends=True)
        return await call.reply()

    def take(self, event: h2.events.Event) -> None:
        super().take(event)
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()


@contextlib.asynccontextmanager
async def http2_client(
    port: int, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[Http2Client]:
    """Connect to a port of this machine, and wait for its settings."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        _, client = await loop.create_connection(
            Http2Client, "127.0.0.1", port, ssl=tls, server_hostname=server_name
        )
        await client.settled.wait()
    try:
        yield client
    finally:
        client.close()
        async with asyncio.timeout(DEADLINE_S):
            await client.lost.wait()
