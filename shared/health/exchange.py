"""A check's own connection: how it begins, what is said on it, how it ends."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from weirgate.shared.addresses import split_address
from weirgate.shared.health.check import Check, Target, Tls
from weirgate.shared.health.introduction import introduction
from weirgate.shared.health.response import BadResponseError
from weirgate.shared.health.tls import check_pins, context_of

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.Protocol)


class Reader(Protocol):
    """What makes sense of an answer; sans-IO.

    Each method may raise a BadResponseError, which is the check's result.
    """

    done: bool

    def feed(self, data: bytes) -> bytes | None:
        """Take what came; return what is to be sent in turn."""

    def end(self) -> None:
        """Take the end of the stream."""


async def exchange(target: Target, address: str, request: bytes, reader: Reader) -> None:
    """Connect, send the request, and return as soon as the reader has what it needs."""
    done = asyncio.get_running_loop().create_future()
    transport, _ = await connect(
        lambda: _Exchange(target.check, request, reader, done), target, address
    )
    try:
        await done
    finally:
        close(transport, target.check.tls)


async def connect(
    factory: Callable[[], _ProtocolT], target: Target, address: str
) -> tuple[asyncio.Transport, _ProtocolT]:
    """Connect to an address of the target, by TLS where its check says so."""
    loop = asyncio.get_running_loop()
    check = target.check
    context = context_of(check.tls, check.alpn) if check.tls else None
    name = (check.tls.server_name or split_address(target.address)[0]) if check.tls else None
    host, port = split_address(address)
    return await loop.create_connection(
        factory, host, check.port or port, ssl=context, server_hostname=name
    )


def close(transport: asyncio.Transport, tls: Tls | None) -> None:
    """End a connection that has done its work."""
    # A TLS close waits for the peer's close_notify, for up to half a minute: not worth a socket.
    if tls:
        transport.abort()
    else:
        transport.close()


class _Exchange(asyncio.Protocol):
    """Sends the request at once and feeds the reader; a stream pair would cost twice the CPU."""

    def __init__(
        self, check: Check, request: bytes, reader: Reader, done: "asyncio.Future[None]"
    ) -> None:
        self._check = check
        self._request = request
        self._reader = reader
        self._done = done
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are not instances of asyncio's classes
        self._transport = cast("asyncio.WriteTransport", transport)
        refusal = self._refusal(transport)
        if refusal is not None:
            self._done.set_exception(refusal)
            return
        start = introduction(self._check.proxy_protocol, transport)
        self._transport.write(start + self._request)

    def data_received(self, data: bytes) -> None:
        self._step(lambda: self._reader.feed(data))

    def eof_received(self) -> None:
        self._step(self._reader.end)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._step(self._reader.end)
        elif not self._done.done():
            self._done.set_exception(error)

    def _refusal(self, transport: asyncio.BaseTransport) -> BadResponseError | None:
        """Hold the peer to its key, and to the protocol that was asked for.

        Whoever has another key is told nothing; another protocol would not be understood.
        """
        try:
            check_pins(self._check.tls, transport)
        except BadResponseError as error:
            return error
        wanted, session = self._check.alpn, transport.get_extra_info("ssl_object")
        got = session.selected_alpn_protocol() if session and wanted else wanted
        if got == wanted:
            return None
        return BadResponseError(f"ALPN: the endpoint chose {got or 'nothing'}, wanted {wanted}")

    def _step(self, step: Callable[[], bytes | None]) -> None:
        if self._done.done():
            return
        try:
            reply = step()
        except BadResponseError as error:
            self._done.set_exception(error)
            return
        if reply and self._transport is not None:
            self._transport.write(reply)
        if self._reader.done:
            self._done.set_result(None)
