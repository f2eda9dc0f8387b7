"""WebSocket frame by frame over whatever carries its bytes: a stream of HTTP/2 or a socket."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from h2.exceptions import ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Side
from websockets.protocol import Protocol as Codec

from tests.support.http2_client import Call, Http2Client
from tests.support.http2_origin import Behaviour, Request
from tests.support.http2_streams import Stream
from tests.support.strict import Response
from tests.support.wire import DEADLINE_S, Wire, connect, request

LIMIT_BYTES = 16 << 20
KEY = base64.b64encode(bytes(16)).decode()


class Pipe(Protocol):
    """What carries the bytes."""

    async def receive(self) -> bytes:
        """Return the next bytes; empty = the peer has ended its side."""

    async def send(self, data: bytes, *, ends: bool = False) -> None:
        """Send bytes, and with ``ends`` end our side."""


class StreamPipe:
    """A stream of HTTP/2, of either end."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def receive(self) -> bytes:
        return await self.stream.part()

    async def send(self, data: bytes, *, ends: bool = False) -> None:
        await self.stream.send(data, ends=ends)


class WirePipe:
    """A connection that was upgraded."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def receive(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return await self.wire.reader.read(1 << 16)
        return b""

    async def send(self, data: bytes, *, ends: bool = False) -> None:
        await self.wire.send(data)
        if ends:
            self.wire.half_close()


class WebSocket:
    """One side of an open WebSocket; pings and closes of the peer are answered by themselves."""

    def __init__(self, pipe: Pipe, side: Side = CLIENT) -> None:
        self.pipe = pipe
        self._codec = Codec(side, max_size=LIMIT_BYTES)
        self._frames: list[Frame] = []

    async def frame(self) -> Frame | None:
        """Return the next frame; None = the peer has ended its side."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._frames:
                data = await self.pipe.receive()
                if not data:
                    return None
                self._codec.receive_data(data)
                with _gone():
                    await self._flush()
                events = self._codec.events_received()
                self._frames += [event for event in events if isinstance(event, Frame)]
        return self._frames.pop(0)

    async def data_frame(self) -> Frame:
        """Return the next frame, which must be there."""
        found = await self.frame()
        assert found is not None, "the peer has ended its side"
        return found

    async def message(self) -> tuple[str | bytes, int]:
        """Return the next message, and in how many frames it came."""
        frames = [await self.data_frame()]
        while not frames[-1].fin:
            frames.append(await self.data_frame())
        data = b"".join(bytes(frame.data) for frame in frames)
        whole = data.decode() if frames[0].opcode is Opcode.TEXT else data
        return whole, len(frames)

    async def send(self, *parts: str | bytes) -> None:
        """Send a message in as many frames as there are parts."""
        for number, part in enumerate(parts):
            data, fin = part.encode() if isinstance(part, str) else part, number == len(parts) - 1
            if number:
                self._codec.send_continuation(data, fin)
            elif isinstance(part, str):
                self._codec.send_text(data, fin)
            else:
                self._codec.send_binary(data, fin)
            await self._flush()

    async def resend(self, frame: Frame) -> None:
        """Send a frame of a message as it came."""
        if frame.opcode is Opcode.CONT:
            self._codec.send_continuation(frame.data, frame.fin)
        elif frame.opcode is Opcode.TEXT:
            self._codec.send_text(frame.data, frame.fin)
        elif frame.opcode is Opcode.BINARY:
            self._codec.send_binary(frame.data, frame.fin)
        await self._flush()

    async def ping(self, data: bytes) -> None:
        self._codec.send_ping(data)
        await self._flush()

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say that we close; the answer is a frame, too."""
        self._codec.send_close(code, reason)
        await self._flush()

    async def end(self) -> None:
        """End our side of what carries the bytes, where the peer has not ended both."""
        with _gone():
            await self.pipe.send(b"", ends=True)

    async def closed(self) -> tuple[int, str]:
        """Read to the close frame, and to the end behind it; return its code and reason."""
        while (frame := await self.data_frame()).opcode is not Opcode.CLOSE:
            pass
        await self.end()
        assert await self.frame() is None
        return int.from_bytes(bytes(frame.data[:2])), bytes(frame.data[2:]).decode()

    async def _flush(self) -> None:
        # the codec's wish to end the connection comes as an empty part: that is ours to decide
        data = b"".join(self._codec.data_to_send())
        if data:
            await self.pipe.send(data)


def _gone() -> contextlib.AbstractContextManager[None]:
    """Ignore that nobody waits any more for what we say out of politeness."""
    return contextlib.suppress(OSError, ProtocolError)


def handshake(path: str, authority: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the fields of an extended CONNECT."""
    start = ((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"))
    where = ((":path", path), (":authority", authority))
    return (*start, *where, ("sec-websocket-version", "13"), *more)


def over_http2(client: Http2Client, path: str, authority: str, *more: tuple[str, str]) -> Call:
    """Ask for a WebSocket by RFC 8441."""
    return client.call(*handshake(path, authority, *more), ends=False)


@contextlib.asynccontextmanager
async def over_http1(
    port: int, path: str, host: str, *fields: str
) -> AsyncIterator[tuple[Response, Wire]]:
    """Ask for a WebSocket by RFC 6455."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    async with connect(port) as wire:
        await wire.send(request(path, *upgrade, f"Sec-WebSocket-Key: {KEY}", *fields, host=host))
        yield await wire.response(), wire


async def echo_frames(request: Request) -> None:
    """Take an extended CONNECT and send each frame back; ``close`` closes, a close is answered."""
    if request.one(":protocol") != "websocket" or request.one("sec-websocket-version") != "13":
        request.head(400, ends=True)
        return
    offered = request.one("sec-websocket-protocol").split(",")[0].strip()
    request.head(200, *([("sec-websocket-protocol", offered)] if offered else []))
    socket = WebSocket(StreamPipe(request), SERVER)
    # the server is the first to end a WebSocket that both have closed (RFC 6455 §7.1.1)
    while (frame := await socket.frame()) is not None and frame.opcode is not Opcode.CLOSE:
        if frame.opcode is Opcode.TEXT and frame.data == b"close":
            await socket.close(4001, "as asked")
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            await socket.resend(frame)
    await socket.end()


async def echo_bytes(request: Request) -> None:
    """Take an extended CONNECT and send every byte back; what came last is sent after the end."""
    request.head(200)
    while data := await request.part():
        await request.send(data)
    await request.send(b"bye", ends=True)


def refusing(status: int, body: bytes) -> Behaviour:
    """Answer an extended CONNECT with something else than a WebSocket."""

    async def behave(request: Request) -> None:
        request.head(status, ("content-length", str(len(body))))
        await request.send(body, ends=True)

    return behave
