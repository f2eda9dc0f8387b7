"""One operating-system process: started with exactly the descriptors it is given.

``subprocess.Popen`` and a pidfd rather than the loop's own subprocesses: uvloop's do not close
the parent's inheritable descriptors when ``pass_fds`` is used, and leak copies of standard
output into the child.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from weirgate.shared.control.boot import SUPERVISOR_PID


class Process:
    """A running child; ``exited`` must be awaited to its end."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        bootstrap: bytes,
        pass_fds: Sequence[int] = (),
        environ: Mapping[str, str] | None = None,
    ) -> "Process":
        """Start ``command`` with one more argument: the descriptor that holds the bootstrap.

        The call blocks for the 2 ms that fork and exec take, so that a command that cannot be
        run raises here.
        """
        with in_memory(bootstrap) as memory:
            popen = subprocess.Popen(
                [*command, str(memory)],
                stdin=subprocess.DEVNULL,
                pass_fds=[memory, *pass_fds],
                env={
                    **(os.environ if environ is None else environ),
                    SUPERVISOR_PID: f"{os.getpid()}",
                },
                # its own group: Ctrl-C in the terminal reaches the supervisor alone
                process_group=0,
            )
        return cls(popen)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, or nothing when the process has ended; never to a reused id."""
        if self._popen.returncode is None:
            self._popen.send_signal(number)

    async def exited(self) -> int:
        """Wait for the end; return the exit status, negative for the signal that ended it."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self._pidfd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._pidfd)
        status = self._popen.wait()
        os.close(self._pidfd)
        return status


@contextlib.contextmanager
def in_memory(bootstrap: bytes) -> Iterator[int]:
    """Give a descriptor of memory that holds a bootstrap, at its beginning."""
    memory = os.memfd_create("weirgate-bootstrap")
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(bootstrap)
        os.lseek(memory, 0, os.SEEK_SET)
        yield memory
    finally:
        os.close(memory)


def describe_exit(status: int) -> str:
    """Say how a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
