"""The demo's layer 4 application: answers every line with its process id and the line."""

import asyncio
import os
import sys


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(b"line-app %d: " % os.getpid() + line)
            await writer.drain()
    except (ConnectionError, ValueError):
        pass  # the client is gone, or its line is beyond all measure
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Serve on a port of 127.0.0.1 until the process ends."""
    server = await asyncio.start_server(_answer, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
