"""A UDP application that sends every datagram back: `python -m benchmarks.datagram_echo PORT`."""

import socket
import sys


def main() -> None:
    """Echo until ended."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    echo.bind(("127.0.0.1", int(sys.argv[1])))
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while True:
        length, peer = echo.recvfrom_into(buffer)
        echo.sendto(view[:length], peer)


if __name__ == "__main__":
    main()
