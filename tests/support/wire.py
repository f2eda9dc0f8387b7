"""A raw client: sends exactly the bytes it is given and reads responses by the strict parser."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator

from tests.support.strict import READER_LIMIT, Response, read_response

DEADLINE_S = 15.0


class Wire:
    """One client connection; every read has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def local_port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def response(self, method: str = "GET", *, within_s: float = DEADLINE_S) -> Response:
        """Read the next response that is not interim."""
        async with asyncio.timeout(within_s):
            while True:
                response = await self.maybe_response(method, within_s=within_s)
                assert response is not None, "closed where a response was due"
                if response.status >= 200 or response.status == 101:
                    return response

    async def maybe_response(
        self, method: str = "GET", *, within_s: float = DEADLINE_S
    ) -> Response | None:
        """Read the next response, interim ones too; None = closed before its first byte."""
        async with asyncio.timeout(within_s):
            return await read_response(self.reader, method)

    async def exchange(self, data: bytes, method: str = "GET") -> Response:
        await self.send(data)
        return await self.response(method)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def rest(self, *, within_s: float = DEADLINE_S) -> bytes:
        """Read to the end of the stream; a reset counts as the end."""
        parts = []
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(within_s):
                while data := await self.reader.read(1 << 16):
                    parts.append(data)
        return b"".join(parts)

    def pause_reading(self) -> None:
        """Leave what arrives in the kernel's buffer, until it is full."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    def half_close(self) -> None:
        """Say that no more bytes will come; a reset that came first shows at the next read."""
        with contextlib.suppress(OSError):
            self.writer.write_eof()

    def reset(self) -> None:
        """Close so that the peer gets an RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    local: str | None = None,
) -> AsyncIterator[Wire]:
    """Connect to a port of this machine, by TLS where a context is given."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            host,
            port,
            limit=READER_LIMIT,
            ssl=tls,
            server_hostname=server_name,
            local_addr=(local, 0) if local else None,
        )
    wire = Wire(reader, writer)
    try:
        yield wire
    finally:
        await wire.close()


def request(
    target: str = "/",
    *fields: str,
    method: str = "GET",
    host: str | None = "weirgate.test",
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """Return a well-formed request; a body brings its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += fields
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def proxy_v1(source: str, port: int = 4321) -> bytes:
    """Return a PROXY header, version 1."""
    return f"PROXY TCP4 {source} 192.0.2.1 {port} 443\r\n".encode()


def proxy_v2(source: str, port: int = 4321, *, tlvs: bytes = b"", command: int = 0x21) -> bytes:
    """Return a PROXY header, version 2; the command 0x20 is LOCAL."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    wide = family == socket.AF_INET6
    body = socket.inet_pton(family, source)
    body += socket.inet_pton(family, "2001:db8::1" if wide else "192.0.2.1")
    body += struct.pack("!HH", port, 443) + tlvs
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    return signature + struct.pack("!BBH", command, 0x21 if wide else 0x11, len(body)) + body


async def get(port: int, target: str = "/", *fields: str, host: str = "weirgate.test") -> Response:
    """Send one GET on its own connection."""
    async with connect(port) as wire:
        return await wire.exchange(request(target, "Connection: close", *fields, host=host))
