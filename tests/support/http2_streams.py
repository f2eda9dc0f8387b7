"""What both ends of HTTP/2 on the h2 library have in common: a stream, and the connection."""

import asyncio
import contextlib
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Fields = tuple[tuple[str, str], ...]
_CHUNK_BYTES = 16_384


class Stream:
    """One stream; what comes on it is taken part by part, and the windows open as it is."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self.headers: Fields = ()
        self.trailers: Fields = ()
        #: The peer has ended its side, or the whole stream.
        self.ended = asyncio.Event()
        #: The code of the peer's RST_STREAM; None = none came.
        self.reset_code: int | None = None
        self._parts: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._left = False

    def one(self, name: str) -> str:
        """Return the value of a header or trailer, empty where there is none."""
        fields = (*self.headers, *self.trailers)
        return next((value for key, value in fields if key == name), "")

    async def part(self) -> bytes:
        """Return the next bytes of the body, and let as many more come; empty = the end."""
        data, size = await self._parts.get()
        self._acknowledge(size)
        return data

    def leave(self) -> None:
        """Read no further: what came and still comes must not shut the connection's window."""
        self._left = True
        while not self._parts.empty():
            self._acknowledge(self._parts.get_nowait()[1])

    def _acknowledge(self, size: int) -> None:
        if size:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.connection.http2.acknowledge_received_data(size, self.number)
            self.connection.flush()

    async def body(self) -> bytes:
        """Read to the end."""
        parts = []
        while data := await self.part():
            parts.append(data)
        return b"".join(parts)

    async def send(self, data: bytes = b"", *, ends: bool = False) -> None:
        """Send a part of the body, as the windows allow.

        Raises:
            ProtocolError: The stream or the connection has ended.
        """
        http2 = self.connection.http2
        while data:
            self._changed.clear()
            room = min(http2.local_flow_control_window(self.number), _CHUNK_BYTES)
            if room <= 0:
                await self._changed.wait()
                continue
            http2.send_data(self.number, data[:room])
            data = data[room:]
            self.connection.flush()
        if ends:
            http2.end_stream(self.number)
            self.connection.flush()

    def send_fields(self, *fields: tuple[str, str], ends: bool = False) -> None:
        """Send a head or a trailer."""
        self.connection.http2.send_headers(self.number, fields, end_stream=ends)
        self.connection.flush()

    def reset(self, code: int) -> None:
        self.connection.http2.reset_stream(self.number, code)
        self.connection.flush()

    def take(self, event: h2.events.Event) -> None:
        """Take what came for this stream."""
        if isinstance(event, h2.events.DataReceived) and event.data:
            self._parts.put_nowait((event.data, event.flow_controlled_length or 0))
            if self._left:
                self.leave()
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = decoded(event.headers)
        elif isinstance(event, h2.events.StreamReset):
            self.reset_code = int(event.error_code or 0)
            self.end()
        elif isinstance(event, h2.events.StreamEnded):
            self.end()
        self.changed()

    def end(self) -> None:
        """Take the end of what the peer sends."""
        if not self.ended.is_set():
            self._parts.put_nowait((b"", 0))
            self.ended.set()
            self.changed()

    def changed(self) -> None:
        """Let whoever waits for a window look again."""
        self._changed.set()


class Connection(asyncio.Protocol):
    """One connection; subclasses say what its streams are."""

    def __init__(self, *, client_side: bool) -> None:
        config = h2.config.H2Configuration(client_side=client_side, header_encoding="utf-8")
        self.http2 = h2.connection.H2Connection(config)
        self.lost = asyncio.Event()
        #: What the peer did wrong.
        self.malformed: list[str] = []
        #: The last stream that the peer's GOAWAY says it will answer; None = none came.
        self.goaway: int | None = None
        self._transport: asyncio.Transport | None = None

    def stream(self, number: int) -> Stream | None:
        """Return a stream that is known."""
        raise NotImplementedError

    def all_streams(self) -> list[Stream]:
        raise NotImplementedError

    def begin(self) -> None:
        """Send the first SETTINGS."""
        self.http2.initiate_connection()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are not instances of asyncio's classes
        self._transport = cast("asyncio.Transport", transport)
        self.begin()
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.http2.receive_data(data):
                self.take(event)
        except h2.exceptions.ProtocolError as error:
            self.malformed.append(repr(error))
            self.flush()
            self.close()
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()
        for stream in self.all_streams():
            stream.end()

    def take(self, event: h2.events.Event) -> None:
        """Take what came."""
        stream = self.stream(getattr(event, "stream_id", None) or 0)
        if stream is not None:
            stream.take(event)
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for other in self.all_streams():
                other.changed()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event.last_stream_id

    def flush(self) -> None:
        """Send what the library has ready."""
        self.write(self.http2.data_to_send())

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def decoded(headers: object) -> Fields:
    """Return the fields of an event."""
    assert isinstance(headers, list | tuple)
    return tuple((str(name), str(value)) for name, value in headers)
