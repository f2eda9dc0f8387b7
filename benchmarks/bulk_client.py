"""A download client that is never the bottleneck: bodies are dropped in the kernel, not copied.

`python -m benchmarks.bulk_client PORT --seconds 3` prints one line of JSON. `recv(MSG_TRUNC)` on
TCP throws the bytes away unread, but every length is checked.
"""

import argparse
import json
import selectors
import socket
import time
from dataclasses import asdict, dataclass

CHUNK = 1 << 20


@dataclass
class Count:
    """What arrived; `cut` are downloads that ended before their announced length."""

    bytes: int = 0
    downloads: int = 0
    cut: int = 0
    status: int = 0
    failed: int = 0


class Download:
    """One keep-alive connection that downloads the same path again and again."""

    def __init__(self, port: int, path: str, count: Count) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self._count = count
        self._head = b""
        self._missing = 0
        self._drain = bytearray(CHUNK)
        self.socket.sendall(self._request)
        self.socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def step(self) -> bool:
        """Take what is there; False when the connection is over."""
        try:
            return self._body() if self._missing else self._read_head()
        except BlockingIOError:
            return True
        except OSError:
            self._count.failed += 1
            return False

    def _read_head(self) -> bool:
        received = self.socket.recv(4096)
        self._head += received
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            self._count.cut += not received
            return bool(received)
        if not self._head.startswith(b"HTTP/1.1 200"):
            self._count.status += 1
            return False
        lines = self._head[:end].lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        already = len(self._head) - end - 4
        self._count.bytes += already
        self._missing = length - already
        self._head = b""
        return self._finish() if not self._missing else True

    def _body(self) -> bool:
        want = min(self._missing, CHUNK)
        received = self.socket.recv_into(self._drain, want, socket.MSG_TRUNC)
        if not received:
            self._count.cut += 1
            return False
        self._count.bytes += received
        self._missing -= received
        return self._finish() if not self._missing else True

    def _finish(self) -> bool:
        self._count.downloads += 1
        self.socket.send(self._request)  # a few dozen bytes into an empty buffer
        return True


def run(port: int, path: str, connections: int, seconds: float) -> Count:
    """Download on `connections` connections for `seconds`."""
    count = Count()
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            download = Download(port, path, count)
            selector.register(download.socket, selectors.EVENT_READ, download)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and selector.get_map():
            for key, _ in selector.select(left):
                if not key.data.step():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return count


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--path", default="/10m.bin")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    print(json.dumps(asdict(run(options.port, options.path, options.connections, options.seconds))))


if __name__ == "__main__":
    main()
