"""Holds many idle connections open: `python -m benchmarks.idle_client PORT COUNT`.

Each asks once, so that it is established in the gateway and kept alive. A line of JSON on stdout
says that all stand; the connections close when stdin ends.
"""

import argparse
import json
import socket
import sys

from benchmarks.tls_client import client_context

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def main() -> None:
    """Open, say so, hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--websocket", action="store_true")
    options = parser.parse_args()
    context = client_context() if options.tls else None
    request, status = (UPGRADE, b"101") if options.websocket else (REQUEST, b"200")
    held: list[socket.socket] = []
    failed = 0
    for _ in range(options.count):
        try:
            connection = socket.create_connection(("127.0.0.1", options.port), timeout=5)
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname="bench")
            connection.sendall(request)
            failed += not connection.recv(4096).startswith(b"HTTP/1.1 " + status)
            held.append(connection)
        except OSError:
            failed += 1
    print(json.dumps({"open": len(held), "failed": failed}), flush=True)
    sys.stdin.read()
    for connection in held:
        connection.close()


if __name__ == "__main__":
    main()
