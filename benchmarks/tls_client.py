"""A paced TLS 1.3 client: one handshake and one request a connection, full or resumed, counted.

`python -m benchmarks.tls_client PORT --seconds 3 --rate 100 [--resume]` prints one line of JSON.
It keeps a fixed rate, so neither side is the bottleneck and every subject gets the same load.
"""

import argparse
import json
import socket
import ssl
import time
from dataclasses import asdict, dataclass

from benchmarks.processes import pause

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


@dataclass
class Count:
    """What happened; `full` and `resumed` are what the TLS library says of each handshake."""

    connections: int = 0
    full: int = 0
    resumed: int = 0
    failed: int = 0
    status: int = 0
    late: int = 0
    first_error: str = ""


def client_context() -> ssl.SSLContext:
    """TLS 1.3 only; the certificate is self-signed, its signature is checked all the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def one_connection(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """Connect, ask once, read to the end; the answer, whether resumed, the newest ticket."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname="bench", session=session) as secure:
            secure.sendall(REQUEST)
            answer = b""
            while chunk := secure.recv(16384):
                answer += chunk
            # Tickets come after the handshake: only now is there one to take.
            return answer, bool(secure.session_reused), secure.session


def run(port: int, seconds: float, rate: float, *, resume: bool) -> Count:
    """Open connections at `rate` a second; the first one of `resume` is not counted."""
    context, count, session = client_context(), Count(), None
    if resume:
        _, _, session = one_connection(context, port, None)
    begin = time.monotonic()
    for number in range(int(seconds * rate)):
        due = begin + number / rate
        ahead = due - time.monotonic()
        if ahead > 0:
            pause(ahead)
        elif ahead < -0.5:
            count.late += 1
        count.connections += 1
        try:
            answer, resumed, ticket = one_connection(context, port, session)
        except OSError as error:
            count.failed += 1
            count.first_error = count.first_error or str(error)
            continue
        count.resumed += resumed
        count.full += not resumed
        count.status += not answer.startswith(b"HTTP/1.1 200")
        if resume:
            session = ticket
    return count


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    print(
        json.dumps(asdict(run(options.port, options.seconds, options.rate, resume=options.resume)))
    )


if __name__ == "__main__":
    main()
