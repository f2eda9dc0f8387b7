"""A check's own connection: how it begins, what is said on it, how it ends."""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

from weirgate.shared.addresses import split_address
from weirgate.shared.health.check import Check, Target, Tls
from weirgate.shared.health.introduction import introduction
from weirgate.shared.health.response import BadResponseError
from weirgate.shared.health.tls import check_pins, context_of

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.Protocol)
_ExchangeT = TypeVar("_ExchangeT", bound="Exchange")


class Exchange(Protocol):
    """A request, and what makes sense of its answer; sans-IO.

    Each method may raise a BadResponseError, which is the check's result.
    """

    request: bytes
    done: bool

    def feed(self, data: bytes) -> bytes | None:
        """Take what came; return what is to be sent in turn."""

    def end(self) -> None:
        """Take the end of the stream."""


async def exchange(
    target: Target, address: str, begin: Callable[[str | None], _ExchangeT]
) -> _ExchangeT:
    """Connect, begin with what TLS agreed on, and return as soon as enough of the answer is there.

    Args:
        target: Whom to ask.
        address: Where.
        begin: Takes the protocol that the endpoint chose in the handshake; None where it did not.
    """
    done: asyncio.Future[_ExchangeT] = asyncio.get_running_loop().create_future()
    transport, _ = await connect(lambda: _Conversation(target.check, begin, done), target, address)
    try:
        return await done
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


class _Conversation(asyncio.Protocol, Generic[_ExchangeT]):
    """Sends the request at once and feeds the exchange; a stream pair would cost twice the CPU."""

    def __init__(
        self,
        check: Check,
        begin: Callable[[str | None], _ExchangeT],
        done: "asyncio.Future[_ExchangeT]",
    ) -> None:
        self._check = check
        self._begin = begin
        self._done = done
        self._exchange: _ExchangeT | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are not instances of asyncio's classes
        self._transport = cast("asyncio.WriteTransport", transport)
        try:  # whoever has another key, or speaks another protocol, is told nothing
            check_pins(self._check.tls, transport)
            self._exchange = self._begin(_agreed(self._check, transport))
        except Exception as error:  # noqa: BLE001 - whoever waits for the end must hear of it
            self._done.set_exception(error)
            return
        start = introduction(self._check.proxy_protocol, transport)
        self._transport.write(start + self._exchange.request)

    def data_received(self, data: bytes) -> None:
        self._step(lambda exchange: exchange.feed(data))

    def eof_received(self) -> None:
        self._step(lambda exchange: exchange.end())

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._step(lambda exchange: exchange.end())
        elif not self._done.done():
            self._done.set_exception(error)

    def _step(self, step: Callable[[_ExchangeT], bytes | None]) -> None:
        if self._exchange is None or self._done.done():
            return
        try:
            reply = step(self._exchange)
        except BadResponseError as error:
            self._done.set_exception(error)
            return
        if reply and self._transport is not None:
            self._transport.write(reply)
        if self._exchange.done:
            self._done.set_result(self._exchange)


def _agreed(check: Check, transport: asyncio.BaseTransport) -> str | None:
    """Return the protocol that the endpoint chose; None where nothing is agreed on.

    Raises:
        BadResponseError: It did not choose what alone was offered.
    """
    session = transport.get_extra_info("ssl_object")
    chosen: str | None = session.selected_alpn_protocol() if session and check.alpn else None
    if session and len(check.alpn) == 1 and chosen != check.alpn[0]:
        raise BadResponseError(
            f"ALPN: the endpoint chose {chosen or 'nothing'}, wanted {check.alpn[0]}"
        )
    return chosen
