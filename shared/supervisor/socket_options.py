"""Options of the listening sockets: set when bound, and on the living socket at a reload.

Linux gives accepted sockets a copy of the listening socket's: keep-alive, user timeout, congestion
control and buffers are inherited that way, at no cost for each connection.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from weirgate.shared.errors import WeirgateError
from weirgate.shared.observability.logs import fields as log_fields

log = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")
#: Since Linux 5.14; Python does not name it.
_SO_BUF_LOCK = 72
#: Socket option, its bit in SO_BUF_LOCK, where its first size is, and where its cap is.
_BUFFERS = {
    "receive_buffer_bytes": (socket.SO_RCVBUF, 2, "ipv4/tcp_rmem", "net.core.rmem_max"),
    "send_buffer_bytes": (socket.SO_SNDBUF, 1, "ipv4/tcp_wmem", "net.core.wmem_max"),
}


class OptionError(WeirgateError):
    """The kernel refuses an option; the text says which and why."""


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What the snapshot's ``listeners[].socket`` says; these defaults are those of the kernel."""

    backlog: int = 4096
    #: Idle and interval in milliseconds, count.
    keepalive: tuple[int, int, int] | None = None
    user_timeout_ms: int = 0
    defer_accept_ms: int = 0
    fast_open: int = 0
    congestion: str | None = None
    receive_buffer_bytes: int = 0
    send_buffer_bytes: int = 0

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> "SocketOptions":
        """Read the snapshot's form; a udp listener has none."""
        if value is None:
            return cls()
        probes = value["keepalive"]
        triple = probes and (probes["idle_ms"], probes["interval_ms"], probes["count"])
        return cls(**{**value, "keepalive": triple})


#: A socket that nobody has touched.
UNTOUCHED = SocketOptions()


def without_deferral(options: Mapping[str, SocketOptions]) -> dict[str, SocketOptions]:
    """Return the options for a node that starts: its proof that traffic flows sends no byte."""
    return {name: replace(one, defer_accept_ms=0) for name, one in options.items()}


def listen(listener: socket.socket, options: SocketOptions) -> None:
    """Set the options of a bound socket, then listen: windows are scaled by the buffers of now.

    Raises:
        OptionError: the kernel refuses one.
        OSError: it cannot listen.
    """
    change(listener, UNTOUCHED, options)
    listener.listen(options.backlog)


def listen_anew(listener: socket.socket, options: SocketOptions) -> None:
    """Set every option of a socket that may carry another configuration's, and listen.

    Raises:
        OptionError: the kernel refuses one.
        OSError: it cannot listen.
    """
    for field in fields(SocketOptions):
        value = getattr(options, field.name)
        if field.name in _BUFFERS and not value and not _is_locked(listener, field.name):
            continue
        _set(listener, field.name, value)
    listener.listen(options.backlog)


def change(listener: socket.socket, before: SocketOptions, after: SocketOptions) -> None:
    """Set what differs.

    Raises:
        OptionError: the kernel refuses one; those before it are set.
    """
    for field in fields(SocketOptions):
        name, value = field.name, getattr(after, field.name)
        if value == getattr(before, name):
            continue
        _set(listener, name, value)


def _set(listener: socket.socket, name: str, value: Any) -> None:
    if listener.family == socket.AF_UNIX and name != "backlog":
        return
    try:
        _SETTERS[name](listener, value)
    except OSError as error:
        raise OptionError(f"{name}: {error.strerror or error}") from error


def _is_locked(listener: socket.socket, buffer: str) -> bool:
    """Whether somebody has set the size of a buffer, so that the kernel does not tune it."""
    _, lock, _, _ = _BUFFERS[buffer]
    with contextlib.suppress(OSError):  # before Linux 5.14 nobody can tell
        return bool(listener.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK) & lock)
    return False


def _set_backlog(listener: socket.socket, backlog: int) -> None:
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.listen(backlog)


def _set_keepalive(listener: socket.socket, probes: tuple[int, int, int] | None) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(probes is not None))
    if probes is not None:
        idle_ms, interval_ms, count = probes
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_ms // 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_ms // 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)


def _set_congestion(listener: socket.socket, name: str | None) -> None:
    wanted = name or _sysctl("ipv4/tcp_congestion_control")
    if not wanted:
        return
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
    except OSError as error:
        available = _sysctl("ipv4/tcp_available_congestion_control")
        if error.errno == errno.ENOENT:
            text = f'"{wanted}" is not available here (available: {available}); load it: '
            raise OptionError(f"congestion: {text}modprobe tcp_{wanted}") from error
        if error.errno == errno.EPERM:
            allowed = _sysctl("ipv4/tcp_allowed_congestion_control")
            text = f'"{wanted}" is allowed with CAP_NET_ADMIN only (for others: {allowed})'
            raise OptionError(f"congestion: {text}") from error
        raise


def _buffer_setter(name: str) -> Callable[[socket.socket, int], None]:
    option, lock, tuned, cap = _BUFFERS[name]

    def set_buffer(listener: socket.socket, size: int) -> None:
        if size == 0:
            _tune_again(listener, option, lock, tuned)
            return
        listener.setsockopt(socket.SOL_SOCKET, option, size)
        given = listener.getsockopt(socket.SOL_SOCKET, option) // 2
        if given < size:
            log.warning(
                "the kernel caps a socket buffer",
                extra=log_fields(option=name, wanted=size, given=given, limit=cap),
            )

    return set_buffer


def _tune_again(listener: socket.socket, option: int, lock: int, tuned: str) -> None:
    """Give a buffer back to the kernel's own tuning: its first size, and no lock."""
    first = _sysctl(tuned).split()
    if len(first) == 3:
        listener.setsockopt(socket.SOL_SOCKET, option, int(first[1]) // 2)
    try:
        locks = listener.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
        listener.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, locks & ~lock)
    except OSError as error:
        text = "this kernel (before 5.14) tunes the buffer again only after a restart of the node"
        raise OptionError(text) from error


def _sysctl(name: str) -> str:
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError:
        return ""


def _of_tcp(option: int, unit: int = 1) -> Callable[[socket.socket, int], None]:
    def set_option(listener: socket.socket, value: int) -> None:
        listener.setsockopt(socket.IPPROTO_TCP, option, value // unit)

    return set_option


_SETTERS: Mapping[str, Callable[[socket.socket, Any], None]] = {
    "backlog": _set_backlog,
    "keepalive": _set_keepalive,
    "user_timeout_ms": _of_tcp(socket.TCP_USER_TIMEOUT),
    "defer_accept_ms": _of_tcp(socket.TCP_DEFER_ACCEPT, unit=1000),
    "fast_open": _of_tcp(socket.TCP_FASTOPEN),
    "congestion": _set_congestion,
    "receive_buffer_bytes": _buffer_setter("receive_buffer_bytes"),
    "send_buffer_bytes": _buffer_setter("send_buffer_bytes"),
}
