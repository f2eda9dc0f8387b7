"""Many UDP flows, each waiting for its echo: `python -m benchmarks.datagram_client PORT`.

Of 1,000 flows 64 have a datagram on its way at any time; each answer starts the next flow. What
does not come back within 200 ms is counted as lost. Prints one line of JSON.
"""

import argparse
import json
import select
import socket
import time

TIMEOUT_S = 0.2


def run(port: int, seconds: float, flows: int, window: int, size: int) -> dict[str, float]:
    """Drive the flows and count."""
    payload = b"x" * size
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(flows):
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        flow.connect(("127.0.0.1", port))
        sockets[flow.fileno()] = flow
        poll.register(flow.fileno(), select.EPOLLIN)
    order = list(sockets)
    turn = answered = lost = wrong = 0
    for fd in order[:window]:
        sockets[fd].send(payload)
    turn = window
    started = time.monotonic()
    end = started + seconds
    while time.monotonic() < end:
        events = poll.poll(TIMEOUT_S)
        if not events:
            lost += window
            for _ in range(window):
                sockets[order[turn % flows]].send(payload)
                turn += 1
        for fd, _ in events:
            try:
                data = sockets[fd].recv(65536)
            except OSError:
                wrong += 1
                continue
            wrong += data != payload
            answered += 1
            sockets[order[turn % flows]].send(payload)
            turn += 1
    return {
        "answered": answered,
        "lost": lost,
        "wrong": wrong,
        "seconds": time.monotonic() - started,
        "cpu_s": time.process_time(),
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--size", type=int, default=200)
    options = parser.parse_args()
    print(
        json.dumps(run(options.port, options.seconds, options.flows, options.window, options.size))
    )


if __name__ == "__main__":
    main()
