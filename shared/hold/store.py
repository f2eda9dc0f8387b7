"""The supervisor's end: sockets that a holder in another container keeps.

The environment variable ``WEIRGATE_SOCKET_STORE`` is the path of its Unix socket.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from weirgate.shared import messages
from weirgate.shared.messages import MessageError, close_all
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.inherited import Given, Passed

log = logging.getLogger(__name__)

VARIABLE = "WEIRGATE_SOCKET_STORE"
#: For one answer: the holder has nothing else to do.
_SECONDS = 2.0
_RETRY_SECONDS = 0.05
#: After it did not answer it is left in peace for so long: asking blocks the supervisor.
_DEAF_SECONDS = 10.0


class HolderStore:
    """A ``Store`` whose holder is another container."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deaf_until = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "HolderStore | None":
        """Return the store that the environment names."""
        path = environ.get(VARIABLE, "")
        return cls(Path(path)) if path else None

    def keep(self, name: str, listener: socket.socket) -> bool:
        """Take a copy; say whether it is there."""
        try:
            self._say("keep", name, [listener.fileno()])
        except (OSError, MessageError) as error:
            log.warning(
                "no copy of a socket is kept: a restart refuses connections",
                extra=fields(name=name, holder=self._path, error=error),
            )
            return False
        return True

    def forget(self, name: str) -> None:
        """Close the copy."""
        with contextlib.suppress(OSError, MessageError):
            self._say("forget", name)

    def _say(self, kind: str, name: str, fds: Sequence[int] = ()) -> None:
        if time.monotonic() < self._deaf_until:
            raise TimeoutError("it did not answer before")
        try:
            _ask(self._path, kind, name, fds)
        except OSError:
            self._deaf_until = time.monotonic() + _DEAF_SECONDS
            raise


def from_holder(environ: MutableMapping[str, str]) -> Given:
    """Take what a holder has kept of a former life of this node: a source of inherited sockets."""
    given = Given()
    path = environ.get(VARIABLE, "")
    if not path:
        return given
    try:
        for name, fd in _ask(Path(path), "give", "").items():
            kept = socket.socket(fileno=fd)
            kept.settimeout(0)
            given.sockets.append(Passed(name, kept))
    except (OSError, MessageError) as error:
        log.warning("nobody holds sockets", extra=fields(holder=path, error=error))
    return given


def _ask(path: Path, kind: str, name: str, fds: Sequence[int] = ()) -> dict[str, int]:
    """Say one thing to the holder; return the descriptors that it gives, by name.

    Raises:
        MessageError: it refuses.
        OSError: it cannot be reached, or does not answer in time.
    """
    found: dict[str, int] = {}
    with _connected(path) as connection:
        messages.send(connection, messages.encode(kind, name), fds)
        try:
            while _take(found, *messages.receive(connection)):
                pass
        except BaseException:
            close_all(found.values())
            raise
    return found


def _take(found: dict[str, int], data: bytes, given: list[int]) -> bool:
    """Take one answer in; say whether there is more to come.

    Raises:
        MessageError: it is a refusal, or the end.
    """
    answer, value = messages.decode(data) if data else ("refused", "it has gone")
    if answer == "kept" and len(given) == 1:
        found[str(value)] = given[0]
        return True
    close_all(given)
    if answer != "ok":
        raise MessageError(str(value))
    return False


def _connected(path: Path) -> socket.socket:
    """Connect; a holder that starts at the same time is waited for.

    Raises:
        OSError: it cannot be reached.
    """
    deadline = time.monotonic() + _SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(_SECONDS)
            connection.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(_RETRY_SECONDS)
        except BaseException:
            connection.close()
            raise
        else:
            return connection
