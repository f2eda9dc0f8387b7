"""Listening sockets that were open before this process: whoever started it passes them on.

A ``Source`` is a function that takes what it passes out of the environment. Sockets are found by
the address that they are bound to; their names are for messages.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field

from weirgate.shared.addresses import UNIX
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.errors import InheritedError
from weirgate.shared.supervisor.listeners import UDP, bound_address

log = logging.getLogger(__name__)

#: The first descriptor that sd_listen_fds(3) passes.
_FIRST = 3
#: Names of sockets that a former life of this node gave to a store begin like this. A socket
#: unit's are called as the unit says, by default ``NAME.socket``.
STORED = "weirgate-stored-"
#: Python does not name it.
_SO_PROTOCOL = 38
_PROTOCOLS = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}


@dataclass(eq=False, slots=True)
class Passed:
    """An open socket that we were given, and what its giver calls it."""

    name: str
    socket: socket.socket

    @property
    def stored(self) -> bool:
        """Whether a former life of this node put it into a store; else its owner is the giver."""
        return self.name.startswith(STORED)

    @property
    def address(self) -> str:
        """Where it is bound, as a listener's ``bind`` says it, with ``udp:`` before datagrams."""
        return bound_address(self.socket)


@dataclass(slots=True)
class Given:
    """What a source passes: sockets, and what is wrong with the rest."""

    sockets: list[Passed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


Source = Callable[[MutableMapping[str, str]], Given]


class Inherited:
    """The inherited sockets that no listener has taken."""

    def __init__(self, given: Iterable[Given] = ()) -> None:
        self._free: list[Passed] = []
        #: What is wrong with what was passed, one line each; a node should not start with it.
        self.problems: list[str] = []
        for each in given:
            self._free += each.sockets
            self.problems += each.problems

    @classmethod
    def collect(cls, environ: MutableMapping[str, str], sources: Iterable[Source]) -> "Inherited":
        """Take what every source passes; children then do not see it in the environment."""
        return cls([source(environ) for source in sources])

    def __iter__(self) -> Iterator[Passed]:
        return iter(self._free)

    def take(self, bind: str) -> Passed | None:
        """Return the socket that is bound to an address, which is the caller's from now on.

        Raises:
            InheritedError: there is one, and it does not do.
        """
        for passed in self._free:
            if passed.address == bind:
                _fits(passed)
                self._free.remove(passed)
                return passed
        return None

    def put_back(self, passed: Passed) -> None:
        """Take a socket back that nobody wants now; a later ``take`` finds it."""
        self._free.append(passed)

    def misfits(self, taken: Iterable[str]) -> Iterator[str]:
        """Say what must be wrong with the rest, now that these addresses are served."""
        served = set(taken)
        for passed in self._free:
            where = f"{passed.name}: {passed.address}"
            if passed.address in served:
                yield (
                    f"{where} was passed twice; two sockets for one address (ReusePort=) would "
                    "leave every other connection unanswered"
                )
            elif _of_other_transport(passed.address) in served:
                meant, used = ("ListenStream=", "ListenDatagram=")
                if not passed.address.startswith(UDP):
                    meant, used = used, meant
                yield f"{where} is of the wrong kind; write {meant} instead of {used}"

    def close_stored(self) -> list[str]:
        """Close what a former configuration had listened on; return the names."""
        gone = [passed for passed in self._free if passed.stored]
        for passed in gone:
            log.info("no listener wants a kept socket", extra=fields(address=passed.address))
            self._free.remove(passed)
            passed.socket.close()
        return [passed.name for passed in gone]

    def warn_of_rest(self) -> None:
        """Say which sockets are listened on without anybody who accepts."""
        for passed in self._free:
            warn_of(passed)

    def close(self) -> None:
        """Close the copies of this process; their owners' go on listening."""
        for passed in self._free:
            passed.socket.close()
        self._free.clear()


def warn_of(passed: Passed) -> None:
    """Say that connections to an inherited socket are not accepted."""
    log.warning(
        "a socket was passed that no listener binds: connections to it wait unanswered. Take it "
        "out of the socket unit, or add a listener and reload",
        extra=fields(name=passed.name, address=passed.address),
    )


def from_service_manager(environ: MutableMapping[str, str]) -> Given:
    """Take what sd_listen_fds(3) describes."""
    pid, count, names = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    given = Given()
    if pid != str(os.getpid()) or not count.isdigit():
        return given
    called = names.split(":") if names else []
    inodes = set()
    for number in range(int(count)):
        name = called[number] if number < len(called) else "unknown"
        try:
            passed = Passed(name, _adopt(_FIRST + number))
        except OSError as error:
            text = f"{name}: descriptor {_FIRST + number} is no socket ({error.strerror})"
            given.problems.append(f"{text}; use ListenStream= and ListenDatagram= only")
            continue
        inode = os.fstat(passed.socket.fileno()).st_ino
        problem = _problem(passed)
        if problem:
            given.problems.append(f"{name}: {problem}")
        if problem or inode in inodes:  # the same socket by way of the unit and of the store
            passed.socket.close()
            continue
        inodes.add(inode)
        given.sockets.append(passed)
    return given


def _adopt(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)  # noqa: FBT003 - takes no name
    adopted = socket.socket(fileno=fd)
    adopted.settimeout(0)
    return adopted


def _problem(passed: Passed) -> str:
    """Say why no listener could ever use a socket."""
    sock = passed.socket
    stream = sock.type == socket.SOCK_STREAM
    if sock.family == socket.AF_UNIX:
        if not stream:
            return "only ListenStream= makes Unix sockets that Weirgate can use"
    elif sock.family not in (socket.AF_INET, socket.AF_INET6):
        return "only IP addresses and paths can be listened on; mend ListenStream="
    elif sock.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) != _PROTOCOLS.get(sock.type):
        return "this is neither TCP nor UDP; remove SocketProtocol= from the socket unit"
    if stream and _is_connection(sock):
        return "a connection was passed instead of a listening socket; set Accept=no"
    return ""


def _is_connection(sock: socket.socket) -> bool:
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    with contextlib.suppress(OSError):
        sock.getpeername()
        return True
    return False


def _fits(passed: Passed) -> None:
    """Refuse a wildcard that takes IPv4 along, which could not be undone."""
    sock = passed.socket
    wildcard = sock.family == socket.AF_INET6 and sock.getsockname()[0] == "::"
    if wildcard and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise InheritedError(
            f"the socket {passed.address} of {passed.name} takes IPv4 connections, too; set "
            "BindIPv6Only=ipv6-only, and list the IPv4 address beside it"
        )


def _of_other_transport(address: str) -> str:
    if address.startswith(UNIX):
        return ""
    return address.removeprefix(UDP) if address.startswith(UDP) else UDP + address
