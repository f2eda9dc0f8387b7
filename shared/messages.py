"""Messages between processes of one host: JSON with descriptors, over ``SOCK_SEQPACKET``."""

import json
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from weirgate.shared.errors import WeirgateError

MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 64
_MODE = 0o660
_PEER_CREDENTIALS = struct.Struct("3i")


class MessageError(WeirgateError):
    """The other end does not keep to the protocol, or has ended the conversation."""


def encode(kind: str, value: object) -> bytes:
    """Return one message."""
    return json.dumps({kind: value}, separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[str, Any]:
    """Return kind and value of a message.

    Raises:
        MessageError: it is none.
    """
    try:
        document = json.loads(data)
        ((kind, value),) = document.items()
    except (ValueError, AttributeError) as error:
        raise MessageError(f"not a message: {data[:80]!r}") from error
    return kind, value


def send(connection: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message with descriptors.

    Raises:
        OSError: the other end is gone, or its queue is full.
    """
    if fds:
        socket.send_fds(connection, [data], fds)
    else:
        connection.send(data)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Return one message and its descriptors, which are closed on exec; empty = the end.

    Raises:
        OSError: as the kernel says; ``BlockingIOError`` when there is none.
    """
    data, fds, flags, _ = socket.recv_fds(
        connection, MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise OSError("a message longer than any should be")
    return data, fds


def listen(path: Path, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens in the place of whatever was at ``path``.

    Its group may reach it, so that containers can share it; ``is_of_this_user`` tells who came.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(os.fspath(path))
        path.chmod(_MODE)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def is_of_this_user(connection: socket.socket) -> bool:
    """Say whether the other end runs as the same user as this process, or as root."""
    return peer_uid(connection) in {os.geteuid(), 0}


def peer_uid(connection: socket.socket) -> int:
    """Return the user that the process at the other end runs as."""
    size = _PEER_CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(_PEER_CREDENTIALS.unpack(credentials)[1])


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
