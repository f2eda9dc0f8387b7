"""What systemd does for one service: sockets, notify messages, a store of descriptors, restarts."""

import array
import asyncio
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import end
from tests.support.weirgate import COMMAND
from weirgate.shared.addresses import UNIX, split_address
from weirgate.shared.testing import eventually

#: Puts the descriptors in its first argument at 3, 4, …, and becomes the rest of its arguments.
_LAUNCHER = """
import fcntl, os, sys
passed = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in passed]
for fd in passed:
    os.close(fd)
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
START_DEADLINE_S = 20.0
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Message:
    """One notify message."""

    values: Mapping[str, str]
    at: float
    pid: int


@dataclass
class ServiceManager:
    """One service's manager; ``capacity`` is FileDescriptorStoreMax."""

    directory: Path
    capacity: int = 0
    watchdog_s: float = 0.0
    environ: dict[str, str] = field(default_factory=dict)
    #: Of the socket unit: name and socket.
    sockets: list[tuple[str, socket.socket]] = field(default_factory=list)
    store: dict[str, socket.socket] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.bind(str(self.directory / "notify"))
        asyncio.get_running_loop().add_reader(self._notify, self._read)

    def listen(
        self,
        address: str,
        name: str = "weirgate.socket",
        *,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        only_ipv6: bool = True,
    ) -> socket.socket:
        """Open a socket as a socket unit does."""
        sock = opened(address, kind, only_ipv6=only_ipv6)
        self.sockets.append((name, sock))
        return sock

    async def start(self, *arguments: str | Path) -> asyncio.subprocess.Process:
        """Start the service with all sockets that there are; its log is ``weirgate.log``."""
        passed = [*self.sockets, *self.store.items()]
        fds = [sock.fileno() for _, sock in passed]
        listed = ",".join(map(str, fds))
        launcher = (sys.executable, "-S", "-E", "-c", _LAUNCHER, listed)
        watchdog = {"WATCHDOG_USEC": f"{self.watchdog_s * 1e6:.0f}"} if self.watchdog_s else {}
        with self.log_file.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *launcher,
                *COMMAND,
                *map(str, arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=fds,
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": str(self.directory / "notify"),
                    "LISTEN_FDS": str(len(fds)),
                    "LISTEN_FDNAMES": ":".join(name for name, _ in passed),
                    **({"FDSTORE": str(self.capacity)} if self.capacity else {}),
                    **watchdog,
                    **self.environ,
                },
            )
        return self.process

    async def started(self, *arguments: str | Path) -> asyncio.subprocess.Process:
        """Start the service and wait for READY=1."""
        before = self.count("READY")
        process = await self.start(*arguments)
        await eventually(
            lambda: process.returncode is not None or self.count("READY") > before,
            within_s=START_DEADLINE_S,
            what="READY=1",
            explain=self.log,
        )
        assert process.returncode is None, self.log()
        return process

    async def stopped(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop the service; the store stays, as it does for a restart."""
        assert self.process is not None
        return await end(self.process, how, within_s=20)

    def count(self, name: str) -> int:
        """Count the messages with an assignment of this name."""
        return sum(name in message.values for message in self.messages)

    def last(self, name: str) -> Message:
        """Return the last message with an assignment of this name."""
        return next(m for m in reversed(self.messages) if name in m.values)

    @property
    def log_file(self) -> Path:
        return self.directory / "weirgate.log"

    def log(self) -> str:
        return self.log_file.read_text()

    def discard_store(self) -> None:
        """Close what is kept, as a stop without a start does."""
        for sock in self.store.values():
            sock.close()
        self.store.clear()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await end(self.process, signal.SIGKILL)
        asyncio.get_running_loop().remove_reader(self._notify)
        self._notify.close()
        self.discard_store()
        for _, sock in self.sockets:
            sock.close()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._notify.recvmsg(65536, socket.CMSG_SPACE(4 * 64) + 64)
        except BlockingIOError:
            return
        pid, fds = 0, array.array("i")
        for _, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            elif kind == socket.SCM_CREDENTIALS:
                pid, _, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
        values = dict(line.partition("=")[::2] for line in data.decode().split("\n"))
        self.messages.append(Message(values, time.monotonic(), pid))
        self._keep(values, [socket.socket(fileno=fd) for fd in fds])

    def _keep(self, values: Mapping[str, str], passed: list[socket.socket]) -> None:
        """Obey FDSTORE and FDSTOREREMOVE as the service manager's documentation says."""
        name = values.get("FDNAME", "stored")
        assert len(name) <= 255
        assert name.isascii()
        assert ":" not in name
        if values.get("FDSTOREREMOVE") == "1" and name in self.store:
            self.store.pop(name).close()
        known = {os.fstat(sock.fileno()).st_ino for sock in self.store.values()}
        for sock in passed:
            wanted = values.get("FDSTORE") == "1" and len(self.store) < self.capacity
            if wanted and os.fstat(sock.fileno()).st_ino not in known:
                assert name not in self.store, f"{name} names two sockets"
                self.store[name] = sock
            else:
                sock.close()


@asynccontextmanager
async def service_manager(
    directory: Path, *, capacity: int = 0, watchdog_s: float = 0.0
) -> AsyncIterator[ServiceManager]:
    """Run a manager; at the end the service is killed, and the log goes with a failure."""
    manager = ServiceManager(directory, capacity, watchdog_s)
    try:
        yield manager
    except BaseException as error:
        if manager.log_file.exists():
            error.add_note(manager.log()[-6000:])
        raise
    finally:
        await manager.close()


def opened(
    address: str, kind: socket.SocketKind = socket.SOCK_STREAM, *, only_ipv6: bool = True
) -> socket.socket:
    """Bind and listen, blocking and inheritable or not: as systemd may pass it."""
    if address.startswith(UNIX):
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(address.removeprefix(UNIX))
    else:
        host, port = split_address(address)
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        sock.bind((host, port))
    if kind != socket.SOCK_DGRAM:
        sock.listen(4096)
    return sock
