"""Accepts every WebSocket and says nothing: `python -m benchmarks.websocket_endpoint PORT`."""

import asyncio
import base64
import hashlib
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request, then hold the connection until the other side ends it."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2]]
    key = next((value for name, value in lines if name.lower() == b"sec-websocket-key"), None)
    if key is not None:
        digest = base64.b64encode(hashlib.sha1(key + GUID).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n")
        writer.write(b"Upgrade: websocket\r\nSec-WebSocket-Accept: " + digest + b"\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await reader.read()
    writer.close()


async def main() -> None:
    """Serve until it is ended."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
