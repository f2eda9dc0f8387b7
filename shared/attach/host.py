"""The host of an attached gateway: ``weirgate attach`` in a container of its own.

It starts a process when a supervisor says so, and tells of its end. When the supervisor goes, the
process serves on what it has, with the last configuration that it was given; as soon as a
supervisor is there again, a fresh process takes the new connections, and the old one finishes.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weirgate.shared import messages
from weirgate.shared.attach.messages import (
    FIRST_DESCRIPTOR,
    MAX_NUMBERED,
    PROTOCOL,
    AttachError,
)
from weirgate.shared.messages import MessageError, close_all
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.process import Process, describe_exit

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1
_SLOW_RETRY_SECONDS = 1.0
#: So often in a row it is tried quickly: an edge that restarts is back within seconds.
_QUICK_TRIES = 100
_MODULE = "weirgate.appgw.process"


@dataclass(eq=False, slots=True)
class _Gateway:
    """One process, and the connection on which it was ordered."""

    process: Process
    connection: socket.socket
    #: A second SIGTERM would end it at once.
    told_to_finish: bool = False

    def finish(self) -> None:
        """Let it finish what it has."""
        if not self.told_to_finish:
            self.told_to_finish = True
            self.process.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on."""
        if number == signal.SIGTERM:
            self.finish()
        else:
            self.process.signal(number)


class Host:
    """Keeps one gateway process for whichever supervisor is there, and older ones to their end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._current: _Gateway | None = None
        self._all: set[_Gateway] = set()
        self._connection: socket.socket | None = None
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def attached(self) -> bool:
        """Whether a supervisor has a process here."""
        return self._connection is not None and self._current is not None

    @property
    def leaving(self) -> bool:
        """Whether the end has begun."""
        return self._leaving.is_set()

    async def run(self) -> None:
        """Serve supervisors until told to leave, and until every process has finished then.

        Raises:
            AttachError: a supervisor refuses this host, and nothing is served here.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        serving = asyncio.create_task(self._keep_attached())
        ending = asyncio.create_task(self._ended.wait())
        try:
            with _reserved_numbers():
                await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done() and not self._ended.is_set():
                    serving.result()
                    await ending
        finally:
            for task in (serving, ending, *self._tasks):
                task.cancel()
            await asyncio.gather(serving, ending, *self._tasks, return_exceptions=True)
            for gateway in self._all:
                gateway.process.signal(signal.SIGKILL)

    def _on_stop(self) -> None:
        if self._leaving.is_set():  # told twice: at once
            self._ended.set()
            return
        log.info("leaving")
        self._leaving.set()
        if self._connection is not None and self._current is not None:
            self._say(self._connection, "leaving", value=True)
        else:
            self._finish_all()

    def _finish_all(self) -> None:
        for gateway in self._all:
            gateway.finish()
        if not self._all:
            self._ended.set()

    async def _keep_attached(self) -> None:
        tries = 0
        while not self._leaving.is_set():
            try:
                connection = await self._connect()
            except OSError as error:
                if tries == 0:
                    log.info("no node takes gateways", extra=fields(at=self._path, error=error))
                tries += 1
                quick = tries < _QUICK_TRIES
                await asyncio.sleep(_RETRY_SECONDS if quick else _SLOW_RETRY_SECONDS)
                continue
            tries = 0
            self._connection = connection
            try:
                await self._serve(connection)
            except AttachError as error:
                if not self._all:
                    raise
                log.error("%s; what is open is served on", error)  # noqa: TRY400
                await asyncio.sleep(_SLOW_RETRY_SECONDS)
            finally:
                self._connection = None
                connection.close()
            log.warning("the node has gone; what is open is served on")
            await asyncio.sleep(_RETRY_SECONDS)
        self._finish_all()

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, os.fspath(self._path))
            hello = {"protocol": PROTOCOL, "name": socket.gethostname()}
            messages.send(connection, messages.encode("hello", hello))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _serve(self, connection: socket.socket) -> None:
        """Do what a supervisor says until it goes.

        Raises:
            AttachError: it refuses this host.
        """
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(connection, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, fds = messages.receive(connection)
                        if not data:
                            return
                        self._obey(connection, data, fds)
        except (MessageError, OSError) as error:
            log.warning("the connection to the node has broken", extra=fields(error=error))
        finally:
            loop.remove_reader(connection)

    def _obey(self, connection: socket.socket, data: bytes, fds: list[int]) -> None:
        try:
            kind, value = messages.decode(data)
            if kind == "refused":
                raise AttachError(f"the node refuses this gateway: {value}")
            if kind == "start" and fds and not self._leaving.is_set():
                self._start(connection, value, fds)
            elif kind == "signal" and self._current is not None:
                self._current.signal(signal.Signals(value))
        finally:
            close_all(fds)

    def _start(self, connection: socket.socket, order: dict[str, Any], fds: list[int]) -> None:
        if self._current is not None:
            # of a supervisor that has gone, or of a seat that was given up: it only finishes
            self._current.finish()
            self._current = None
        if order.get("module") != _MODULE:
            self._say(connection, "failed", value=f"this host runs {_MODULE} only")
            return
        directory = Path(str(order["control_socket"])).parent
        if not os.access(directory, os.W_OK | os.X_OK):
            why = f"{directory} is not there for both: run_directory must be on the shared volume"
            self._say(connection, "failed", value=why)
            return
        try:
            with os.fdopen(os.dup(fds[0]), "rb") as file:
                bootstrap = file.read()
            with _numbered(fds[1:]) as numbers:
                command = (sys.executable, "-P", "-m", _MODULE)
                process = Process.start(command, bootstrap, numbers)
        except OSError as error:
            self._say(connection, "failed", value=f"cannot be started: {error}")
            return
        self._current = _Gateway(process, connection)
        self._all.add(self._current)
        self._say(connection, "started", value=process.pid)
        task = asyncio.create_task(self._tell_end(self._current))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_end(self, gateway: _Gateway) -> None:
        status = await gateway.process.exited()
        how = describe_exit(status)
        log.info("the gateway has ended", extra=fields(pid=gateway.process.pid, how=how))
        self._all.discard(gateway)
        if gateway is self._current:
            self._current = None
            # to whoever ordered it: to another, it would be the end of a process of theirs
            self._say(gateway.connection, "exited", value=status)
        if self._leaving.is_set():
            self._finish_all()

    def _say(self, connection: socket.socket, kind: str, *, value: object) -> None:
        if connection is not self._connection:
            return
        with contextlib.suppress(OSError):  # gone: the reader sees it, too
            messages.send(connection, messages.encode(kind, value))


_NUMBERS = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + MAX_NUMBERED)


@contextlib.contextmanager
def _reserved_numbers() -> Iterator[None]:
    """Keep the numbers that the bootstrap speaks of for that, whatever else is opened."""
    _fill_with_nothing(_NUMBERS)
    try:
        yield
    finally:
        close_all(_NUMBERS)


@contextlib.contextmanager
def _numbered(fds: list[int]) -> Iterator[list[int]]:
    """Give descriptors the numbers that the bootstrap knows them by, for one start.

    Raises:
        OSError: there are more than there are numbers.
    """
    if len(fds) > len(_NUMBERS):
        raise OSError(f"{len(fds)} descriptors, {len(_NUMBERS)} are the most")
    numbers = list(_NUMBERS[: len(fds)])
    try:
        for fd, number in zip(fds, numbers, strict=True):
            os.dup2(fd, number, inheritable=False)
        yield numbers
    finally:
        _fill_with_nothing(numbers)


def _fill_with_nothing(numbers: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number in numbers:
        os.dup2(null, number, inheritable=False)
    os.close(null)
