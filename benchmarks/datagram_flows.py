"""Steady one-way UDP flows: `python -m benchmarks.datagram_flows PORT --rate 125000`.

Each flow has a socket of its own, and they take turns: no two datagrams in a row are of one flow,
which is the dearest way for whoever passes them on. Now and then a datagram asks for an echo, which
shows that the way back is there. Prints one line of JSON.
"""

import argparse
import json
import select
import socket
import struct
import time

#: Number of the flow; 1 = send this back.
HEADER = struct.Struct("!IB")
TICK_S = 0.001
#: Without a look at echoes in between, when it is behind.
MOST_AT_ONCE = 2000
LAST_ECHOES_S = 0.5


def asked_of(flow: int, flows: int, total: int, every: int) -> int:
    """How many of this flow's datagrams asked for an echo."""
    return sum((flow + number) % every == 0 for number in range(sent_of(flow, flows, total)))


def sent_of(flow: int, flows: int, total: int) -> int:
    """How many of `total` datagrams were this flow's."""
    return total // flows + (flow < total % flows)


def run(
    port: int, *, seconds: float, rate: float, flows: int, size: int, echo_every: int
) -> dict[str, object]:
    """Send at a fixed rate and count what comes back; each n-th datagram asks for an echo."""
    poll = select.epoll()
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
    by_number = {}
    for flow, opened in enumerate(sockets):
        opened.connect(("127.0.0.1", port))
        poll.register(opened.fileno(), select.EPOLLIN)
        by_number[opened.fileno()] = (flow, opened)
    plain, asking = (
        [HEADER.pack(flow, echo).ljust(size, b"\0") for flow in range(flows)] for echo in (0, 1)
    )
    # In each round, other flows ask for an echo.
    rounds = [
        [
            (opened.send, (plain, asking)[(flow + number) % echo_every == 0][flow])
            for flow, opened in enumerate(sockets)
        ]
        for number in range(echo_every)
    ]
    echoes = [0] * flows
    last_echo_s = [0.0] * flows
    sent, behind_s = 0, 0.0
    began = time.monotonic()
    now = 0.0

    def collect(wait_s: float) -> None:
        for number, _ in poll.poll(wait_s):
            flow, opened = by_number[number]
            opened.recv(size)
            echoes[flow] += 1
            last_echo_s[flow] = now

    while now < seconds:
        now = time.monotonic() - began
        due = min(int(now * rate), int(seconds * rate))
        behind_s = max(behind_s, (due - sent) / rate)
        due = min(due, sent + MOST_AT_ONCE)
        while sent < due:
            number, flow = divmod(sent, flows)
            part = rounds[number % echo_every][flow : flow + due - sent]
            for send, payload in part:
                send(payload)
            sent += len(part)
        collect(0 if due - sent else TICK_S)
    taken = time.monotonic() - began
    end = time.monotonic() + LAST_ECHOES_S
    while time.monotonic() < end:
        collect(TICK_S)
    return {
        "sent": sent,
        "echo_every": echo_every,
        "seconds": taken,
        "behind_s": behind_s,
        "cpu_s": time.process_time(),
        "echoes": echoes,
        "last_echo_s": last_echo_s,
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=125_000, help="datagrams a second, of all")
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--size", type=int, default=200, help="bytes of a datagram")
    parser.add_argument("--echo-every", type=int, default=64)
    print(json.dumps(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
