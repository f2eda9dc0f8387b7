"""The first moments of a child process: data plane first, control endpoint second.

Nothing heavy is imported here, because a client may be waiting: asyncio, Starlette and uvicorn
come only after ``start()`` has returned.
"""

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from weirgate.shared.control.child import DataPlane

#: How a child learns which process it belongs to.
SUPERVISOR_PID = "WEIRGATE_SUPERVISOR_PID"
#: The key of a descriptor that an edge gets as the way to its successor, not as a listening socket.
SUCCESSION_KEY = "succession"
_PR_SET_PDEATHSIG = 1


def run_child(make_plane: "Callable[[bytes], DataPlane]") -> None:
    """Run a data plane from the bootstrap in the descriptor given as the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to answer
    bootstrap = _read(int(sys.argv[1]))
    plane = make_plane(bootstrap)
    try:
        plane.start()
    except ValueError as error:
        sys.exit(f"weirgate: the bootstrap is refused: {error}")
    _die_with_supervisor()

    from weirgate.shared.control.child import serve

    serve(plane, json.loads(bootstrap))


def _read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _die_with_supervisor() -> None:
    """Let the kernel kill this process when the supervisor is gone.

    A child without its supervisor is invisible and holds the listening sockets, so that the next
    supervisor could not bind. A supervisor that is only stopped changes nothing.
    """
    supervisor = os.environ.get(SUPERVISOR_PID)
    if supervisor is None:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before the line above
        sys.exit("weirgate: the supervisor is gone")
