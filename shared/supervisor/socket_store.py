"""Listening sockets that outlive this process: who else holds them, and how they are let go."""

import logging
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from weirgate.shared.addresses import UNIX
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.inherited import STORED, Inherited, Passed, warn_of
from weirgate.shared.supervisor.listeners import bound_address, prepare
from weirgate.shared.supervisor.readiness import Notifier
from weirgate.shared.supervisor.socket_options import UNTOUCHED, SocketOptions

log = logging.getLogger(__name__)


class Store(Protocol):
    """Where copies of sockets are kept for our successor."""

    def keep(self, name: str, listener: socket.socket) -> bool:
        """Take a copy; say whether it is there."""

    def forget(self, name: str) -> None:
        """Close the copy."""


class ManagerStore:
    """The service manager's store.

    That there is one says ``FDSTORE``, which systemd sets from version 254 on, and units for older
    ones set themselves. A manager without a store takes sockets and closes them without a word.
    """

    def __init__(self, notifier: Notifier, capacity: int, names: Iterable[str] = ()) -> None:
        self._notifier = notifier
        self._capacity = capacity
        self._names = set(names)
        self._deaf = False

    @classmethod
    def of(
        cls, environ: Mapping[str, str], notifier: Notifier, inherited: Iterable[Passed] = ()
    ) -> "ManagerStore | None":
        """Return the store that the environment names, with what it has given back."""
        capacity = environ.get("FDSTORE", "")
        usable = notifier.present and capacity.isdigit() and int(capacity) > 0
        if not usable:
            return None
        return cls(notifier, int(capacity), (p.name for p in inherited if p.stored))

    def keep(self, name: str, listener: socket.socket) -> bool:
        """Take a copy; say whether it is there."""
        why = "full" if len(self._names) >= self._capacity else ""
        if not why and (self._deaf or not self._notifier.store(name, listener)):
            self._deaf = True  # a start does not wait once more for a manager that does not listen
            why = "no answer"
        if why:
            log.warning(
                "the service manager keeps no copy of a socket: a restart refuses connections",
                extra=fields(address=bound_address(listener), reason=why),
            )
            return False
        self._names.add(name)
        return True

    def forget(self, name: str) -> None:
        """Close the copy."""
        self._names.discard(name)
        self._notifier.forget(name)


class KeptSockets:
    """Every listening socket that somebody else holds, too, by its address."""

    def __init__(self, inherited: Inherited, store: Store | None) -> None:
        self._inherited = inherited
        self._store = store
        self._held: dict[str, Passed] = {}

    def take(self, bind: str, options: SocketOptions = UNTOUCHED) -> socket.socket | None:
        """Return an inherited socket for an address, made as if it had been bound here.

        Raises:
            InheritedError: there is one, and it does not do.
            OptionError: the kernel refuses an option.
            OSError: it cannot listen.
        """
        passed = self._inherited.take(bind)
        if passed is None:
            return None
        if _has_lost_its_path(bind):
            self._close(passed)
            return None
        try:
            prepare(passed.socket, options)
        except BaseException:
            self._inherited.put_back(passed)
            raise
        self._held[bind] = passed
        return passed.socket

    def keep(self, listener_name: str, bind: str, listener: socket.socket) -> None:
        """Give a copy to the store, where there is one, and no one else has a copy yet."""
        address = bound_address(listener)
        if self._store is None or address in self._held or address != bind:  # port 0 is never again
            return
        name = self._free_name(listener_name)
        if self._store.keep(name, listener):
            self._held[address] = Passed(name, listener)

    def held(self, listener: socket.socket) -> bool:
        """Whether the socket goes on listening when we close it."""
        return bound_address(listener) in self._held

    def let_go(self, listener: socket.socket) -> bool:
        """Give up a socket that no listener wants; say whether the caller has to end it.

        One that is not ours goes on listening, and is there for a reload that wants it again.
        """
        passed = self._held.pop(bound_address(listener), None)
        if passed is None:
            return True
        if passed.stored:
            self._forget(passed.name)
            return True
        warn_of(passed)
        self._inherited.put_back(Passed(passed.name, listener.dup()))
        return False

    def put_back(self, listener: socket.socket) -> bool:
        """Undo ``take``; say whether the socket had been taken."""
        passed = self._held.get(bound_address(listener))
        if passed is None or passed.socket is not listener:
            return False
        del self._held[passed.address]
        self._inherited.put_back(passed)
        return True

    def settle(self, served: Iterable[str]) -> list[str]:
        """Judge what nobody has taken, once all is bound; return what is wrong."""
        wrong = [*self._inherited.problems, *self._inherited.misfits(served)]
        if not wrong:
            for name in self._inherited.close_stored():
                self._forget(name)
            self._inherited.warn_of_rest()
        return wrong

    def close(self) -> None:
        """Close what was never taken."""
        self._inherited.close()

    def _close(self, passed: Passed) -> None:
        passed.socket.close()
        self._forget(passed.name)

    def _forget(self, name: str) -> None:
        if self._store is not None:
            self._store.forget(name)

    def _free_name(self, listener_name: str) -> str:
        names = {passed.name for passed in (*self._held.values(), *self._inherited)}
        number = 0
        while (name := f"{STORED}{listener_name}-{number}") in names:
            number += 1
        return name


def _has_lost_its_path(bind: str) -> bool:
    """Whether nobody can reach a Unix socket any more, because its file has been removed."""
    return bind.startswith(UNIX) and not Path(bind.removeprefix(UNIX)).is_socket()
