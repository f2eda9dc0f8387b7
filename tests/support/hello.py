"""Client hellos as OpenSSL makes them, sent in whatever pieces a test wants."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tests.support.wire import DEADLINE_S, Wire

Send = Callable[[Wire, bytes], Awaitable[None]]
T = TypeVar("T")
_RECORD = struct.Struct("!BHH")


class TlsWire:
    """TLS by hand over a plain connection, so that the hello's bytes can be cut anywhere."""

    def __init__(self, wire: Wire, context: ssl.SSLContext, server_name: str | None) -> None:
        self.wire = wire
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)

    def hello(self) -> bytes:
        """Return the client hello's records; they are sent by ``handshake``, or by nobody."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    async def handshake(self, send: Send | None = None) -> None:
        """Shake hands; ``send`` sends the hello in its own way."""
        hello = self.hello()
        await (send or whole)(self.wire, hello)
        await self._drive(self.tls.do_handshake)

    async def exchange(self, data: bytes) -> bytes:
        """Send, and return the next bytes that come."""
        self.tls.write(data)
        await self._flush()
        return await self._drive(lambda: self.tls.read(1 << 16))

    def certificate_names(self) -> set[str]:
        """Return the DNS names of the certificate that the server has shown."""
        found: Any = self.tls.getpeercert() or {}
        return {value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"}

    async def _drive(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                async with asyncio.timeout(DEADLINE_S):
                    data = await self.wire.reader.read(1 << 16)
                if not data:
                    self._in.write_eof()
                self._in.write(data)
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if self._out.pending:
            await self.wire.send(self._out.read())


def client_hello(server_name: str | None, *, context: ssl.SSLContext | None = None) -> bytes:
    """Return the records of a client hello of OpenSSL."""
    used = context or _unchecked()
    tls = used.wrap_bio(ssl.MemoryBIO(), out := ssl.MemoryBIO(), server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """Cut a hello of one record into records of ``size`` bytes."""
    kind, version, length = _RECORD.unpack_from(hello)
    message = hello[_RECORD.size :]
    assert length == len(message), "one record"
    parts = (message[at : at + size] for at in range(0, length, size))
    return b"".join(_RECORD.pack(kind, version, len(part)) + part for part in parts)


async def whole(wire: Wire, data: bytes) -> None:
    """Send everything at once."""
    await wire.send(data)


async def byte_by_byte(wire: Wire, data: bytes) -> None:
    """Send each byte in a segment of its own."""
    raw = wire.writer.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data)):
        await wire.send(data[at : at + 1])
        await asyncio.sleep(0)  # let the loop hand it to the kernel before the next one


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
