"""One connection, a fixed rate, the time of each answer in microseconds; prints JSON.

A process of its own with plain blocking sockets: its own cost is a few microseconds of each time,
the same on every way, so that differences between ways are the ways' own.
"""

import json
import socket
import sys
import threading
import time

from loadtests.tiers.measure import RATE

REQUEST = b"GET / HTTP/1.1\r\nHost: loadtests\r\n\r\n"


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send a request, and read one answer that says how long it is.

    Raises:
        ConnectionError: It ended before its end.
    """
    connection.sendall(request)
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:])
    missing = int(fields.get(b"content-length", b"0")) - len(body)
    while missing > 0:
        part = _more(connection)
        data, missing = data + part, missing - len(part)
    return data


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionError("closed without a whole answer")
    return part


def measure(port: int, seconds: float) -> dict[str, float]:
    """Ask at the fixed rate; late ones are sent at once."""
    times_ns = []
    clock = threading.Event()
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        for number in range(round(seconds * RATE)):
            wait_s = begin + number / RATE - time.perf_counter()
            if wait_s > 0:
                clock.wait(wait_s)
            sent = time.perf_counter_ns()
            answer = exchange(connection, REQUEST)
            times_ns.append(time.perf_counter_ns() - sent)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"answered {answer[:40]!r}")
    times_ns.sort()
    return {
        "requests": len(times_ns),
        "p50_us": times_ns[len(times_ns) // 2] / 1000,
        "p99_us": times_ns[len(times_ns) * 99 // 100] / 1000,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]))))
