"""A UDP application that counts by flow: `python -m benchmarks.datagram_sink PORT FLOWS FILE`.

The counts are in a file mapped into memory, so that they outlive a kill. A datagram begins with
the number of its flow and a flag that asks for an echo (`datagram_flows.HEADER`).
"""

import mmap
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datagram_flows import HEADER

BUFFER_BYTES = 8 << 20
_SO_RCVBUFFORCE = 33
_NUMBER_BYTES = 8


@dataclass(frozen=True)
class Seen:
    """What one endpoint got of each flow, and when the first came (monotonic clock, 0 = never)."""

    datagrams: Sequence[int]
    first_ns: Sequence[int]


def read_counts(path: Path, flows: int) -> Seen:
    """Read what a sink, living or not, has counted so far."""
    numbers = memoryview(path.read_bytes()).cast("Q").tolist()
    return Seen(numbers[:flows], numbers[flows : 2 * flows])


def main() -> None:
    """Count until ended."""
    port, flows, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    path.write_bytes(bytes(2 * flows * _NUMBER_BYTES))
    with path.open("r+b") as file:
        numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sink.bind(("127.0.0.1", port))
    buffer = bytearray(65536)
    view, take, number_of = memoryview(buffer), sink.recvfrom_into, HEADER.unpack_from
    while True:
        length, peer = take(buffer)
        flow, echo = number_of(buffer)
        if not numbers[flow]:
            numbers[flows + flow] = time.monotonic_ns()
        numbers[flow] += 1
        if echo:
            sink.sendto(view[:length], peer)


if __name__ == "__main__":
    main()
