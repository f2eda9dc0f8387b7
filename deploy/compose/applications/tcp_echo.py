"""A TCP echo: each line comes back behind the instance's name and the client's address.

The address is that of a PROXY v2 header where a connection begins with one. It is believed from
anybody: only the load balancer may reach this port.
"""

import asyncio

from common import (
    FINISH_SECONDS,
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

LINE_LIMIT_BYTES = 64 << 10
HEADER_SECONDS = 5.0

connections: set["asyncio.Task[None]"] = set()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.current_task()
    assert task is not None
    connections.add(task)
    try:
        peer = writer.get_extra_info("peername")
        async with asyncio.timeout(HEADER_SECONDS):
            client, begun = await _client(reader)
        name = f"{INSTANCE} {client or address(*peer[:2])}: ".encode()
        for line in begun.splitlines(keepends=True):
            writer.write(name + line)
        while line := await reader.readline():
            writer.write(name + line)
            await writer.drain()
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        pass  # the client is gone, said nothing, or something that is no header and no line
    except asyncio.CancelledError:
        pass  # we end; the connection is closed below, with what was answered
    finally:
        connections.discard(task)
        writer.close()


async def _client(reader: asyncio.StreamReader) -> tuple[str | None, bytes]:
    """Read a PROXY header if there is one, else the first lines; return the client and the lines.

    The header begins with two empty lines, so nothing else may.
    """
    lines = await reader.readline()
    if lines == b"\r\n":
        lines += await reader.readline()
    if lines != b"\r\n\r\n":
        return None, lines
    header = lines + await reader.readexactly(PROXY_FIRST_BYTES - len(lines))
    length = proxy_header_bytes(header)
    if not length:
        raise ValueError("two empty lines, but no PROXY header")
    return proxied_client(header + await reader.readexactly(length - len(header))), b""


async def serve() -> None:
    """Serve until SIGTERM; connections that are still there after the grace are closed."""
    server = await asyncio.start_server(_connection, HOST, PORT, limit=LINE_LIMIT_BYTES)
    await told_to_end()
    await asyncio.sleep(GRACE_SECONDS)
    server.close()
    left = list(connections)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=FINISH_SECONDS)


if __name__ == "__main__":
    asyncio.run(serve())
