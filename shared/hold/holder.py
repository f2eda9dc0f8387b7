"""The holder: takes copies of sockets under names, and gives them back to whoever asks.

Messages (``weirgate.shared.messages``): ``keep`` NAME with a descriptor and ``forget`` NAME are
answered by ``ok``, or by ``refused`` WHY; ``give`` is answered by ``kept`` NAME with a descriptor
for each, then ``ok``.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from weirgate.shared import messages
from weirgate.shared.messages import MessageError, close_all
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

MAX_SOCKETS = 1024
_MAX_NAME = 255
_PAUSE_SECONDS = 1.0
_SEND_SECONDS, _SEND_TRIES = 2.0, 200


class Holder:
    """Copies of sockets, by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM.

        Raises:
            OSError: the socket cannot be made.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with messages.listen(self._path, 16) as door:
            accepting = asyncio.create_task(self._accept(door))
            log.info("holding sockets", extra=fields(at=self._path))
            await self._stop.wait()
            for task in (accepting, *self._serving):
                task.cancel()
            await asyncio.gather(accepting, *self._serving, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        for fd in self._kept.values():
            os.close(fd)

    async def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(door)
            except OSError as error:  # out of descriptors: that passes
                log.warning("a node cannot be taken", extra=fields(error=error))
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        """Answer one node until it goes."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(connection, readable.set)
        try:
            # who gets a listening socket can be the site: the same user only
            if not messages.is_of_this_user(connection):
                messages.send(connection, messages.encode("refused", "another user"))
                return
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data, fds = messages.receive(connection)
                except BlockingIOError:
                    continue
                if not data:
                    return
                await self._answer(connection, data, fds)
        except (MessageError, OSError) as error:
            log.warning("a node is refused or lost", extra=fields(error=error))
        finally:
            loop.remove_reader(connection)
            connection.close()

    async def _answer(self, connection: socket.socket, data: bytes, fds: list[int]) -> None:
        try:
            kind, value = messages.decode(data)
            refusal = ""
            if kind == "give":
                for name, fd in list(self._kept.items()):
                    await _send(connection, messages.encode("kept", name), [fd])
            elif kind == "keep":
                refusal = self._keep(str(value), fds)
            elif kind == "forget":
                self._forget(str(value))
        finally:
            close_all(fds)
        answer = messages.encode("refused", refusal) if refusal else messages.encode("ok", value)
        await _send(connection, answer)

    def _keep(self, name: str, fds: list[int]) -> str:
        """Keep a copy; return why not."""
        if not fds or not name or len(name) > _MAX_NAME:
            return "a name and one descriptor are needed"
        if len(self._kept) >= MAX_SOCKETS:
            return f"{MAX_SOCKETS} sockets are kept already"
        copy = os.dup(fds[0])
        self._forget(name)
        self._kept[name] = copy
        log.info("a socket is kept", extra=fields(name=name))
        return ""

    def _forget(self, name: str) -> None:
        fd = self._kept.pop(name, None)
        if fd is not None:
            log.info("a socket is let go", extra=fields(name=name))
            os.close(fd)


async def _send(connection: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message, at the pace of a reader who reads.

    Raises:
        OSError: the other end has gone, or reads nothing.
    """
    for _ in range(_SEND_TRIES):
        try:
            messages.send(connection, data, fds)
        except BlockingIOError:
            await asyncio.sleep(_SEND_SECONDS / _SEND_TRIES)
        else:
            return
    raise TimeoutError("it does not read")
