"""The listening sockets: bound once, kept for the node's life, lent to every edge process."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weirgate.shared.addresses import UNIX, join_address, split_address
from weirgate.shared.supervisor.errors import BindError, InheritedError
from weirgate.shared.supervisor.port_owner import port_owner
from weirgate.shared.supervisor.socket_options import (
    UNTOUCHED,
    OptionError,
    SocketOptions,
    change,
    listen,
    listen_anew,
)

if TYPE_CHECKING:
    from weirgate.shared.supervisor.socket_store import KeptSockets

#: Before the address of a UDP socket: the same address can be bound once for each transport.
UDP = "udp:"
#: What a UDP socket may hold while the edge is busy; the kernel gives at most net.core.rmem_max
#: to those who may not force it.
DATAGRAM_BUFFER_BYTES = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Key:
    """A listening socket's identity: the listener's name and one of its addresses."""

    name: str
    bind: str

    def __str__(self) -> str:
        return f"{self.name}|{self.bind}"


class Listeners:
    """Every socket in force, by key; ``kept`` knows those that somebody else holds, too."""

    def __init__(self, kept: "KeptSockets | None" = None) -> None:
        self.sockets: dict[Key, socket.socket] = {}
        self._options: dict[Key, SocketOptions] = {}
        self._kept = kept

    def __iter__(self) -> Iterator[Key]:
        return iter(self.sockets)

    def fds(self) -> dict[str, int]:
        """Return the descriptors by key, as the edge's bootstrap names them."""
        return {str(key): listener.fileno() for key, listener in self.sockets.items()}

    def open(
        self, wanted: Iterable[Key], options: Mapping[str, SocketOptions] | None = None
    ) -> dict[Key, socket.socket]:
        """Open what is wanted and not there yet, without adding it; options are by listener.

        An address that is in force under another name is shared, not bound again: that is how a
        listener is renamed without refusing a connection.

        Raises:
            BindError: some address cannot be bound; nothing was opened.
        """
        opened: dict[Key, socket.socket] = {}
        failures = []
        by_address = {key.bind: key for key in self.sockets}
        options = options or {}
        for key in wanted:
            if key in self.sockets:
                continue
            try:
                shared = by_address.get(key.bind)
                if shared is None:
                    own = options.get(key.name, UNTOUCHED)
                    opened[key], self._options[key] = open_one(key.bind, self._kept, own), own
                else:
                    opened[key] = self.sockets[shared].dup()
                    self._options[key] = self._options.get(shared, UNTOUCHED)
            except OSError as error:
                failures.append(f"{key.name}: {explain(key.bind, error)}")
            except (OptionError, InheritedError) as error:
                failures.append(f"{key.name}: {error}")
        if failures:
            kept = self._kept
            self.discard({k: v for k, v in opened.items() if not (kept and kept.put_back(v))})
            raise BindError("\n".join(failures))
        return opened

    def tune(self, options: Mapping[str, SocketOptions]) -> None:
        """Set changed options on the living sockets.

        Raises:
            BindError: the kernel refuses one; all are as they were.
        """
        done: list[tuple[Key, SocketOptions, SocketOptions]] = []
        for key, listener in self.sockets.items():
            before = self._options.get(key, UNTOUCHED)
            after = options.get(key.name, before)
            done.append((key, before, after))
            try:
                change(listener, before, after)
            except OptionError as error:
                for known, old, new in reversed(done):
                    with contextlib.suppress(OptionError):
                        change(self.sockets[known], new, old)
                raise BindError(f"{key.name}: {error}") from error
        self._options |= {key: after for key, _, after in done}

    def add(self, opened: dict[Key, socket.socket]) -> None:
        """Take opened sockets into force."""
        self.sockets |= opened
        if self._kept is not None:
            for key, listener in opened.items():
                self._kept.keep(key.name, key.bind, listener)

    def discard(self, opened: dict[Key, socket.socket]) -> None:
        """Close sockets that nobody needs, wherever a copy of them has gone."""
        for key in opened:
            self.sockets.pop(key, None)
            self._options.pop(key, None)
        ours = {bound_address(listener) for listener in self.sockets.values()}
        for key, listener in opened.items():
            if bound_address(listener) not in ours and self._is_ours_to_end(listener):
                # also ends the listening of a copy that an edge holds, be it one that only finishes
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                _unlink(key.bind)
            listener.close()

    def keep_only(self, wanted: Iterable[Key]) -> None:
        """Close the sockets that no listener names any more."""
        gone = {key: self.sockets.pop(key) for key in self.sockets.keys() - set(wanted)}
        ours = {bound_address(listener) for listener in self.sockets.values()}
        for key, listener in gone.items():
            if listener.type == socket.SOCK_DGRAM:  # sessions that go on answer from it
                if bound_address(listener) not in ours:
                    self._is_ours_to_end(listener)
                listener.close()
                self._options.pop(key, None)
        self.discard({k: v for k, v in gone.items() if v.type != socket.SOCK_DGRAM})

    def close(self) -> None:
        """Close everything; a socket that is kept elsewhere listens on, for our successor."""
        for key, listener in list(self.sockets.items()):
            if self._kept is not None and self._kept.held(listener):
                self.sockets.pop(key).close()
        self.keep_only(())

    def _is_ours_to_end(self, listener: socket.socket) -> bool:
        return self._kept is None or self._kept.let_go(listener)


def open_one(
    address: str, kept: "KeptSockets | None", options: SocketOptions = UNTOUCHED
) -> socket.socket:
    """Take the inherited socket for an address, or bind it.

    Raises:
        InheritedError: the inherited one does not do.
        OptionError: the kernel refuses an option.
        OSError: as the kernel says; ``explain`` makes a sentence of it.
    """
    inherited = None if kept is None else kept.take(address, options)
    return bind(address, options) if inherited is None else inherited


def bind(address: str, options: SocketOptions = UNTOUCHED) -> socket.socket:
    """Bind and listen; an IPv6 wildcard never takes IPv4 with it.

    Raises:
        OptionError: the kernel refuses an option.
        OSError: as the kernel says; ``explain`` makes a sentence of it.
    """
    if address.startswith(UNIX):
        return _bind_unix(Path(address.removeprefix(UNIX)), options)
    datagrams = address.startswith(UDP)
    host, port = split_address(address.removeprefix(UDP))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if datagrams:  # no SO_REUSEADDR: with it, a second process could take the port unnoticed
            _grow_buffer(listener)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        if not datagrams:
            listen(listener, options)
    except BaseException:
        listener.close()
        raise
    return listener


def prepare(listener: socket.socket, options: SocketOptions) -> None:
    """Set what ``bind`` would have set, on a socket that is bound already.

    Raises:
        OptionError: the kernel refuses an option.
        OSError: it cannot listen.
    """
    if listener.type == socket.SOCK_DGRAM:
        _grow_buffer(listener)
    else:
        listen_anew(listener, options)


def _grow_buffer(datagrams: socket.socket) -> None:
    try:
        datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, DATAGRAM_BUFFER_BYTES)
    except PermissionError:
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER_BYTES)


def bound_address(listener: socket.socket) -> str:
    """Say where a socket really listens, which port 0 leaves to the kernel."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    transport = UDP if listener.type == socket.SOCK_DGRAM else ""
    return transport + join_address(name[0], name[1])


def explain(address: str, error: OSError) -> str:
    """Say what is wrong with an address and what to do."""
    if address.startswith(UNIX):
        return f"cannot listen on {address}: {error.strerror or error}"
    _, port = split_address(address.removeprefix(UDP))
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port, datagrams=address.startswith(UDP))
        reason = f"the port is in use by {owner}" if owner else "the port is in use"
    elif error.errno in (errno.EACCES, errno.EPERM) and port < 1024:
        reason = (
            "no permission for a port below 1024; give CAP_NET_BIND_SERVICE or lower "
            "net.ipv4.ip_unprivileged_port_start"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "no interface of this host has the address"
    elif error.errno == errno.EAFNOSUPPORT:
        reason = "this host has no IPv6"
    else:
        reason = error.strerror or str(error)
    return f"cannot listen on {address}: {reason}"


def _bind_unix(path: Path, options: SocketOptions) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(os.fspath(path))
        listen(listener, options)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody answers on; anything else in its place is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(0)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # its queue is full: somebody is there
            pass
    raise OSError(errno.EADDRINUSE, "another process answers on the socket")


def _unlink(address: str) -> None:
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink(missing_ok=True)
