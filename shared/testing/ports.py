"""Ports that nobody uses, outside the range from which the kernel takes ports for clients."""

import os
import random
import socket

# Below the usual ephemeral range (32768-60999): a client's port cannot take one of these in the
# time between our probe and the real bind.
FIRST, LAST = 20000, 31999

_range = range(FIRST, LAST + 1)
_chooser = random.Random(os.getpid())  # noqa: S311 - spreads parallel runs, guards nothing
_given: set[int] = set()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port on 127.0.0.1 that is free now and was not given before by this process.

    Raises:
        OSError: Nothing free was found in 1,000 tries.
    """
    for _ in range(1000):
        port = _chooser.choice(_range)
        if port in _given or not _is_free(port, kind):
            continue
        _given.add(port)
        return port
    raise OSError(f"no free port between {_range.start} and {_range.stop - 1}")


def keep_to_part(part: int, parts: int) -> None:
    """Take ports from one of ``parts`` equal parts of the range only, counted from 0.

    Between the probe and the real bind nothing holds a port: of two processes that run tests side
    by side, one may be given what the other was given just before.
    """
    global _range
    size = (LAST + 1 - FIRST) // parts
    _range = range(FIRST + part * size, FIRST + (part + 1) * size)


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
