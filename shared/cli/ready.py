"""``weirgate status --ready``, and ``weirgate-ready``: whether a node takes traffic, for probes.

A probe runs every few seconds for a container's life: this imports next to nothing, and asks with
a plain socket.
"""

import json
import os
import socket
import sys

from weirgate.shared.cli.exit_codes import Exit

_SECONDS = 2.0
_MAX_BYTES = 64 * 1024
_PORT = 9900


def main() -> None:
    """Ask the node that ``WEIRGATE_ADMIN`` names, else the usual address; the exit code tells."""
    sys.exit(run(os.environ.get("WEIRGATE_ADMIN", f"http://127.0.0.1:{_PORT}"), as_json=False))


def run(admin: str, *, as_json: bool) -> Exit:
    """Print one line; return the exit code: ``OK``, ``NOT_READY`` or ``NOT_REACHABLE``."""
    try:
        state = _health(admin)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"weirgate: {admin}: {error}\n")
        return Exit.NOT_REACHABLE
    ready = state.get("ready") is True and not state.get("draining")
    word = "ready" if ready else "draining" if state.get("draining") else "not ready"
    sys.stdout.write((json.dumps(state) if as_json else word) + "\n")
    return Exit.OK if ready else Exit.NOT_READY


def _health(admin: str) -> dict[str, object]:
    kind, _, rest = admin.partition("://")
    authority = rest.partition("/")[0]
    host, _, port = authority.rpartition(":")
    if kind != "http" or not host or not port.isdecimal():
        raise ValueError("wanted a URL such as http://127.0.0.1:9900")
    answer = b""
    with socket.create_connection((host.strip("[]"), int(port)), _SECONDS) as connection:
        request = f"GET /health HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        while len(answer) < _MAX_BYTES and (more := connection.recv(4096)):
            answer += more
    state = json.loads(answer.partition(b"\r\n\r\n")[2])
    if not isinstance(state, dict) or "ready" not in state:
        raise ValueError("the answer is not a node's")
    return state
