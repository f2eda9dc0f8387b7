"""What every application here needs: its name, its address, a quiet end, PROXY headers.

Environment of all of them: ``HOST`` (default 0.0.0.0), ``PORT``, ``INSTANCE`` (the name in
answers, default the host's name), ``GRACE_SECONDS`` (default 2, at most 3). After SIGTERM an
application says that it is not well, serves on for the grace so that load balancers notice, then
accepts nothing more, finishes, and exits 0 at most 5 s after the signal.
"""

import asyncio
import ipaddress
import os
import signal
import socket
import struct
from collections.abc import MutableMapping
from types import FrameType
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse, Response

HOST = os.environ.get("HOST", "0.0.0.0")
PORT = int(os.environ.get("PORT", "8000"))
INSTANCE = os.environ.get("INSTANCE") or socket.gethostname()
GRACE_SECONDS = min(float(os.environ.get("GRACE_SECONDS", "2")), 3.0)
FINISH_SECONDS = 1.5
KEEP_ALIVE_SECONDS = 75
#: The longest PROXY v2 header that is read, after its first 16 bytes.
PROXY_LIMIT_BYTES = 1024
PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_FIRST_BYTES = 16
_ADDRESS_BYTES = {1: 4, 2: 16}  # by address family


class Server(uvicorn.Server):
    """A uvicorn that serves on for a while after SIGTERM, and whose exit code is then 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; what the signal handler of uvicorn does comes after the grace."""
        del sig, frame
        if not STOPPING.is_set():
            STOPPING.set()
            self.loop.call_soon_threadsafe(self.loop.call_later, GRACE_SECONDS, self._end)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to end."""
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _end(self) -> None:
        self.should_exit = True


STOPPING = asyncio.Event()


async def healthz(_: Any) -> Response:
    """Answer 200, or 503 once this process has been told to end."""
    if STOPPING.is_set():
        return PlainTextResponse("stopping\n", 503)
    return PlainTextResponse("ok\n")


class Named:
    """ASGI middleware: each answer says who gave it, and ends its connection once we stop."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""

        async def named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-instance", INSTANCE.encode())]
                if STOPPING.is_set():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        await self.app(scope, receive, named)


def serve_http(app: Any) -> None:
    """Serve an ASGI application until SIGTERM."""
    config = uvicorn.Config(
        Named(app),
        host=HOST,
        port=PORT,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        ws_max_size=1 << 16,
        proxy_headers=False,
        server_header=False,
    )
    Server(config).run()


async def told_to_end() -> None:
    """Wait for SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, STOPPING.set)
    await STOPPING.wait()


def proxy_header_bytes(first: bytes) -> int:
    """Return how long the PROXY v2 header is that begins with these 16 bytes; 0 = it is none.

    Raises:
        ValueError: It is one, of another version or beyond the limit.
    """
    if not first.startswith(PROXY_SIGNATURE):
        return 0
    version, _, length = struct.unpack_from("!BBH", first, len(PROXY_SIGNATURE))
    if version not in {0x20, 0x21} or length > PROXY_LIMIT_BYTES:
        raise ValueError("PROXY header of an unknown version or too long")
    return PROXY_FIRST_BYTES + int(length)


def proxied_client(header: bytes) -> str | None:
    """Return the client's ``address:port`` in a whole PROXY v2 header; None = it names none.

    Raises:
        ValueError: The addresses are cut off.
    """
    version, family = header[12], header[13] >> 4
    if version == 0x20 or family not in _ADDRESS_BYTES:  # LOCAL, or no internet address
        return None
    size = _ADDRESS_BYTES[family]
    block = header[PROXY_FIRST_BYTES:]
    if len(block) < 2 * size + 4:
        raise ValueError("PROXY header without whole addresses")
    (port,) = struct.unpack_from("!H", block, 2 * size)
    return address(str(ipaddress.ip_address(block[:size])), port)


def address(host: str, port: int) -> str:
    """Write an address as ``host:port``, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
