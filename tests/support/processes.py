"""Processes of the tests: starting, reading /proc, stopping only what was started here."""

import asyncio
import contextlib
import os
import pwd
import resource
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@contextlib.asynccontextmanager
async def process(
    *command: str | Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    user: str | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program with its output in a file; at the end stop it, and kill it if it stays.

    ``user`` is whom it runs as, instead of us.
    """
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            **_as(user),
        )
    try:
        yield child
    finally:
        await end(child, stop_signal)


@dataclass(frozen=True)
class Finished:
    """What a finished program left behind."""

    code: int
    out: bytes
    errors: bytes

    @property
    def text(self) -> str:
        return (self.out + self.errors).decode(errors="replace")


async def finished(
    *command: str | Path,
    input: bytes = b"",  # noqa: A002 - what the standard library calls it
    env: Mapping[str, str] | None = None,
    within_s: float = 60.0,
    user: str | None = None,
) -> Finished:
    """Run a program to its end."""
    child = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        **_as(user),
    )
    try:
        async with asyncio.timeout(within_s):
            out, errors = await child.communicate(input)
    except BaseException:
        child.kill()
        await child.wait()
        raise
    assert child.returncode is not None
    return Finished(child.returncode, out, errors)


def _as(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


async def end(
    child: asyncio.subprocess.Process,
    how: signal.Signals = signal.SIGTERM,
    *,
    within_s: float = 15.0,
) -> int:
    """Signal a child and wait for its exit code; kill it after the deadline."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(how)
    try:
        async with asyncio.timeout(within_s):
            return await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise


def children(parent: int, text: str) -> list[int]:
    """Return the ids of a process's children whose command line contains ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if int(stat[1]) == parent and stat[0] != "Z" and text in command:
                found.append(int(entry.name))
    return sorted(found)


def established(pid: int, port: int) -> int:
    """Return how many established TCP connections with this local port a process holds."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(fd.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[1].partition(":")[2], 16) == port and row[3] == "01" and row[9] in inodes
        for row in rows
    )


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def descriptors(pid: int, kind: str = "") -> list[int]:
    """Return the numbers of a process's open descriptors whose target begins with ``kind``."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(kind):
                found.append(int(entry.name))
    return sorted(found)


@contextlib.contextmanager
def descriptor_limit(pid: int, limit: int) -> Iterator[None]:
    """Let a running process open no descriptor numbered ``limit`` or above; what is open stays."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
