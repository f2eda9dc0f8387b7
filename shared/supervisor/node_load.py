"""What a gateway node tells the edges: whether it serves, and how busy it is.

A listener of its own, since the edges are other hosts and the admin API is none of their business.
It answers one thing, to the edges and to this host; whoever else connects is closed unheard, so
that nobody can hold the places that the edges need.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from weirgate.shared.health.node import PATH
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

#: Callers at once: an edge has one, for a moment.
MAX_CALLERS = 256
#: For a whole request.
REQUEST_SECONDS = 5.0
#: The longest request head.
REQUEST_BYTES = 4096
_BACKLOG = 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Report = Callable[[], Mapping[str, Any]]


class NodeLoadServer:
    """Answers ``GET /load`` on bound sockets until it is closed."""

    def __init__(self, sockets: Sequence[socket.socket], report: Report) -> None:
        self._sockets = sockets
        self._report = report
        self._servers: list[asyncio.Server] = []
        self._callers: set[_Caller] = set()
        #: Networks whose hosts are answered, besides this one.
        self.edges: tuple[Network, ...] = ()

    async def start(self) -> None:
        """Answer from now on."""
        loop = asyncio.get_running_loop()
        for bound in self._sockets:
            server = await loop.create_server(
                lambda: _Caller(self), sock=bound.dup(), backlog=_BACKLOG
            )
            self._servers.append(server)

    def close(self) -> None:
        """Answer no more."""
        for server in self._servers:
            server.close()
        for caller in list(self._callers):
            caller.end()
        for bound in self._sockets:
            bound.close()

    def admits(self, caller: "_Caller", host: str) -> bool:
        """Take a caller in, or say that there is no place for it."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        known = address.is_loopback or any(address in network for network in self.edges)
        if not known or len(self._callers) >= MAX_CALLERS:
            log.debug("a caller of the load listener was turned away", extra=fields(host=host))
            return False
        self._callers.add(caller)
        return True

    def leave(self, caller: "_Caller") -> None:
        """Give a caller's place back."""
        self._callers.discard(caller)

    def answer(self, head: bytes) -> bytes:
        """Return the response to a request's head."""
        method, _, rest = head.partition(b" ")
        if rest.partition(b" ")[0].partition(b"?")[0] != PATH.encode():
            return _response(404, {"error": f"wanted GET {PATH}"})
        if method not in {b"GET", b"HEAD"}:
            return _response(405, {"error": f"wanted GET {PATH}"})
        report = self._report()
        response = _response(200 if report["state"] == "ready" else 503, report)
        return response if method == b"GET" else response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


class _Caller(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, server: NodeLoadServer) -> None:
        self._server = server
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not peer or not self._server.admits(self, peer[0]):
            self.end()
            return
        self._timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.end)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.write(self._server.answer(bytes(self._head)))
            self._transport.close()
        elif len(self._head) > REQUEST_BYTES:
            self.end()

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.leave(self)

    def end(self) -> None:
        """Close without an answer."""
        if self._transport is not None:
            self._transport.abort()


def _response(status: int, document: Mapping[str, Any]) -> bytes:
    names = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
    body = json.dumps(document).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {names[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
