"""The health check of these containers: ``probe.py [http|tcp|udp]`` ends with 0 or 1.

It is a program of its own that imports little, since it runs every few seconds in each container.
"""

import os
import socket
import sys

PORT = int(os.environ.get("PORT", "8000"))
HERE = ("127.0.0.1", PORT)
SECONDS = 2.0


def http() -> bool:
    """Say whether the application answers its health check with 200."""
    with socket.create_connection(HERE, SECONDS) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return connection.recv(64).split(b" ")[1:2] == [b"200"]


def tcp() -> bool:
    """Say whether the application accepts a connection."""
    with socket.create_connection(HERE, SECONDS):
        return True


def udp() -> bool:
    """Say whether the application answers a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.sendto(b"probe", HERE)
        return bool(client.recv(2048))


if __name__ == "__main__":
    try:
        well = {"http": http, "tcp": tcp, "udp": udp}[(sys.argv[1:] or ["http"])[0]]()
    except OSError:
        well = False
    sys.exit(0 if well else 1)
