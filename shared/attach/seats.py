"""The supervisor's end: seats of gateways, taken by hosts that attach themselves."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weirgate.shared import messages
from weirgate.shared.attach.messages import PROTOCOL, AttachError
from weirgate.shared.messages import MessageError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child, Launch
from weirgate.shared.supervisor.process import in_memory

log = logging.getLogger(__name__)

#: A host whose process was to be killed and that says nothing for so long is itself held up.
_KILLED_SECONDS = 1.0
_GREETING_SECONDS = 2.0
_PAUSE_SECONDS = 1.0
#: More than there can be seats, so that one too many is told so.
_MAX_HOSTS = 300


class Attachment:
    """The connection of one host, and the process that it runs for a seat.

    It stands in for ``process.Process`` towards the seat's ``Child``.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        #: The host's own name, for people.
        self.name = name
        self.pid = 0
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def start(self, launch: Launch) -> None:
        """Have the host start a process.

        Raises:
            OSError: it cannot be told.
        """
        self.pid = 0
        self._exited = asyncio.get_running_loop().create_future()
        order = {"module": launch.command[-1], "control_socket": launch.control_socket}
        with in_memory(launch.bootstrap) as bootstrap:
            fds = [bootstrap, *launch.pass_fds]
            messages.send(self._connection, messages.encode("start", order), fds)

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on. A kill is also the end for a host that no longer answers."""
        if self._exited.done():
            return
        try:
            messages.send(self._connection, messages.encode("signal", int(number)))
        except OSError:
            self.lost()
            return
        if number == signal.SIGKILL:
            loop = asyncio.get_running_loop()
            loop.call_later(_KILLED_SECONDS, self._give_up, self._exited)

    async def exited(self) -> int:
        """Wait for the end; return the exit status."""
        return await asyncio.shield(self._exited)

    def told(self, kind: str, value: Any) -> None:
        """Take in what the host says of its process."""
        if kind == "started":
            self.pid = int(value)
        elif kind == "exited":
            self._end(int(value))
        elif kind == "failed":
            log.error("the gateway cannot be started", extra=fields(host=self.name, error=value))
            self._end(1)

    def lost(self) -> None:
        """The connection has gone, and with it the process as far as this node is concerned."""
        self._end(-int(signal.SIGKILL))
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it

    def _give_up(self, exited: "asyncio.Future[int]") -> None:
        if not exited.done():
            log.error("the host of a gateway does not answer", extra=fields(host=self.name))
            self.lost()

    def _end(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)


class Seats:
    """Takes hosts on a Unix socket and gives each a vacant seat, in the order of the seats."""

    def __init__(
        self,
        path: Path,
        children: Callable[[], Sequence[Child]],
        leaving: Callable[[Child, str], None],
    ) -> None:
        self._path = path
        self._children = children
        self._leaving = leaving
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def open(self) -> None:
        """Take hosts from now on.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
        # the run directory's lock says that a socket which is left is nobody's
        self._listener = messages.listen(self._path, 64)
        self._listen()

    def take_no_more(self) -> None:
        """Refuse further hosts."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)
            self._listener = None

    def close(self) -> None:
        """Let all hosts go: their processes serve on until another supervisor takes them."""
        self._closed = True
        self.take_no_more()
        for task in self._tasks:
            task.cancel()

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - its reader is removed before it is closed
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # out of descriptors: it would be tried again at once, for ever
            log.warning("a host cannot be taken", extra=fields(error=error))
            loop.remove_reader(self._listener)
            loop.call_later(_PAUSE_SECONDS, self._listen)
            return
        connection.settimeout(0)
        # it is given private keys and may speak for clients: the same user only
        if not messages.is_of_this_user(connection) or len(self._tasks) >= _MAX_HOSTS:
            uid = messages.peer_uid(connection)
            why = f"it runs as uid {uid}, this node as {os.geteuid()}, or there are too many"
            log.warning("a host is refused", extra=fields(error=why))
            with contextlib.suppress(OSError):
                messages.send(connection, messages.encode("refused", why))
            connection.close()
            return
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        """One host, from its greeting to its end."""
        child: Child | None = None
        attachment: Attachment | None = None
        try:
            attachment = await self._greet(connection)
            child = self._seat(attachment)
            while True:
                kind, value = await _next(connection)
                if kind == "leaving":
                    self._leaving(child, attachment.name)
                else:
                    attachment.told(kind, value)
        except (AttachError, MessageError, OSError, TimeoutError) as error:
            if not self._closed and (attachment is None or str(error)):
                log.warning("a host is refused or lost", extra=fields(error=error))
        finally:
            if child is not None and child.attachment is attachment and attachment is not None:
                child.vacate()
            if attachment is not None:
                attachment.lost()
            connection.close()

    async def _greet(self, connection: socket.socket) -> Attachment:
        async with asyncio.timeout(_GREETING_SECONDS):
            kind, value = await _next(connection)
        name = str(value.get("name", "?"))[:64] if isinstance(value, dict) else "?"
        if kind != "hello" or not isinstance(value, dict) or value.get("protocol") != PROTOCOL:
            why = f"this node speaks version {PROTOCOL} of attach"
        elif all(not child.vacant for child in self._children()):
            why = "every seat is taken: raise gateway.attach.seats"
        else:
            return Attachment(connection, name)
        messages.send(connection, messages.encode("refused", why))
        raise AttachError(f"{name}: {why}")

    def _seat(self, attachment: Attachment) -> Child:
        child = next(child for child in self._children() if child.vacant)
        log.info("a gateway attaches", extra=fields(process=child.name, host=attachment.name))
        child.occupy(attachment)
        return child


async def _next(connection: socket.socket) -> tuple[str, Any]:
    """Return the next message.

    Raises:
        MessageError: the connection has ended, or what came is none.
        OSError: it has broken.
    """
    data = await asyncio.get_running_loop().sock_recv(connection, messages.MESSAGE_BYTES)
    if not data:
        raise MessageError
    return messages.decode(data)
