"""Opens connections as fast as it can: ``python flood.py SOURCE PORT SECONDS`` prints how many.

``python flood.py`` is a server to compare with: it prints its port and turns all of them away.
"""

import contextlib
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)
IP_BIND_ADDRESS_NO_PORT = 24
OPEN_AT_ONCE = 64


def flood(source: str, port: int, seconds: float) -> int:
    """Open connections one after the other, never waiting for an answer; return how many."""
    deadline, opened = time.monotonic() + seconds, 0
    held: list[socket.socket] = []
    while time.monotonic() < deadline:
        for _ in range(OPEN_AT_ONCE):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            connection.settimeout(0)
            with contextlib.suppress(OSError):
                connection.bind((source, 0))
                with contextlib.suppress(BlockingIOError):
                    connection.connect(("127.0.0.1", port))
                opened += 1
            held.append(connection)
        while len(held) > OPEN_AT_ONCE:
            held.pop(0).close()
    for connection in held:
        connection.close()
    return opened


def turn_away() -> None:
    """Print the port of a listener, then accept and reset whatever comes, for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        print(server.getsockname()[1], flush=True)  # noqa: T201
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.close()


if __name__ == "__main__" and not sys.argv[1:]:
    turn_away()
elif __name__ == "__main__":
    sys.stdout.write(str(flood(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
