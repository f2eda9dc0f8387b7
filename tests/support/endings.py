"""A blocking client that tells apart how a stream ended, which asyncio's streams do not."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DEADLINE_S = 15.0

#: ``close``: a FIN, under TLS behind a close_notify; ``cut``: under TLS without it.
Ending = Literal["close", "cut", "reset"]


@dataclass(frozen=True)
class Stream:
    """All that came, and how it ended."""

    data: bytes
    ending: Ending


async def to_the_end(
    port: int,
    data: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    seen: Callable[[bytes], None] = lambda _: None,
) -> Stream:
    """Send and then read on to the end of the stream.

    Args:
        port: Of this machine.
        data: What is sent.
        tls: A client's context, where TLS is spoken.
        server_name: Whom TLS is spoken with.
        seen: Called on the loop with all that has come, whenever more has.
    """
    loop = asyncio.get_running_loop()

    def visit() -> Stream:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
            )
            if tls is not None:
                tls.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
                secured = tls.wrap_socket(
                    connection, server_hostname=server_name, suppress_ragged_eofs=False
                )
                connection = stack.enter_context(secured)
            connection.sendall(data)
            received = b""
            try:
                while part := connection.recv(1 << 16):
                    received += part
                    loop.call_soon_threadsafe(seen, received)
            except ConnectionResetError:
                return Stream(received, "reset")
            except ssl.SSLEOFError:
                return Stream(received, "cut")
            return Stream(received, "close")

    return await asyncio.to_thread(visit)
