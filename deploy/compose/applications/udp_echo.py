"""A UDP echo: each datagram comes back behind the instance's name and the client's address.

The address is that of a PROXY v2 header where a datagram begins with one. It is believed from
anybody: only the load balancer may reach this port.
"""

import asyncio
from typing import cast

from common import (
    GRACE_SECONDS,
    HOST,
    INSTANCE,
    PORT,
    PROXY_FIRST_BYTES,
    address,
    proxied_client,
    proxy_header_bytes,
    told_to_end,
)


class Echo(asyncio.DatagramProtocol):
    """Answers datagrams."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are sent by."""
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one datagram; a broken PROXY header is answered by silence."""
        try:
            client, payload = _read(data)
        except ValueError:
            return
        name = f"{INSTANCE} {client or address(*addr[:2])}: "
        self.transport.sendto(name.encode() + payload, addr)


def _read(data: bytes) -> tuple[str | None, bytes]:
    """Take a datagram apart.

    Raises:
        ValueError: Its PROXY header is not whole.
    """
    if len(data) < PROXY_FIRST_BYTES:
        return None, data
    length = proxy_header_bytes(data[:PROXY_FIRST_BYTES])
    if length > len(data):
        raise ValueError("PROXY header longer than its datagram")
    return (proxied_client(data[:length]) if length else None), data[length:]


async def serve() -> None:
    """Serve until SIGTERM, and for the grace after it."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, PORT))
    await told_to_end()
    await asyncio.sleep(GRACE_SECONDS)
    transport.close()


if __name__ == "__main__":
    asyncio.run(serve())
