"""Starts and ends process trees; ends only what it started, by process id."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import cpu
from benchmarks.netns import pinned


class StartError(Exception):
    """A program did not become ready; the text says why."""


def pause(seconds: float) -> None:
    """Wait: a benchmark measures over a span of time, so here time itself is the condition."""
    threading.Event().wait(seconds)


def wait_until(ready: Callable[[], bool], deadline_s: float, step_s: float = 0.01) -> bool:
    """Poll `ready` until it holds or the deadline passes; says which."""
    end = time.monotonic() + deadline_s
    while not ready():
        if time.monotonic() >= end:
            return False
        pause(step_s)
    return True


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(held.getsockname()[1]) for held in sockets]
    finally:
        for held in sockets:
            held.close()


def answers(port: int, path: str = "/") -> bool:
    """Whether an HTTP GET on a loopback port is answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(request.encode())
            return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


class Running:
    """One program and its descendants, pinned to given CPUs, its output in files."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cpus: frozenset[int],
        stdout: Path,
        stderr: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.stderr = stderr
        self.started_at = time.monotonic()
        with stdout.open("ab") as out, stderr.open("ab") as err, pinned(cpus):
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        """The root of the tree."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the root still runs."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree so far."""
        return cpu.tree_seconds(self.pid)

    def last_words(self) -> str:
        """The end of what it wrote to stderr, on one line."""
        lines = self.stderr.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[-400:] or "it said nothing"

    def wait_for_ports(self, ports: Sequence[int], deadline_s: float = 20) -> None:
        """Wait until each port answers an HTTP request.

        Raises:
            StartError: The program ended or the deadline passed.
        """
        for port in ports:
            if not wait_until(lambda p=port: not self.alive or answers(p), deadline_s):  # type: ignore[misc]
                raise StartError(f"port {port} did not answer in {deadline_s:g} s")
            if not self.alive:
                raise StartError(f"it ended at once: {self.last_words()}")

    def stop(self) -> None:
        """Ask politely, then end by force the tree that we started, and nothing else."""
        if not self.alive:
            return
        family = cpu.tree(self.pid)
        self._process.terminate()
        try:
            self._process.wait(8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for member in family[1:]:
            _kill_if_same(member)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _kill_if_same(member: cpu.ProcessStat) -> None:
    """End an orphan, unless its number has gone to another process meanwhile."""
    try:
        now = cpu.parse_stat((cpu.PROC / str(member.pid) / "stat").read_text())
        if now.start == member.start:
            os.kill(member.pid, signal.SIGKILL)
    except (OSError, ValueError):
        return
