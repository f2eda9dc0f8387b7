"""What an edge process is started with besides the rest of the fleet's: its seat among its like."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from weirgate.shared.control.client import ChildRefusedError, ChildUnreachableError
from weirgate.shared.supervisor.listeners import UDP, Listeners

#: Messages to a successor that may wait to be read.
_SUCCESSION_BUFFER_BYTES = 1024 * 1024
_CHANNEL_BYTES = 4096


class Board(Protocol):
    """The supervisor's view of the places that edge processes hold together."""

    @property
    def fd(self) -> int:
        """The memfd."""

    def empty(self, region: int) -> None:
        """Forget what a process held that has ended."""


@dataclass(eq=False, slots=True)
class Seat:
    """One edge process's: of each worker there are two, as its successor starts before it ends."""

    worker: int
    #: Its own part of the place board.
    region: int
    #: By which it is given further descriptors.
    channel: socket.socket | None = None
    #: Where it hears its predecessor; taken at its start.
    successor_end: socket.socket | None = None
    #: Where the predecessor is to speak.
    predecessor_end: socket.socket | None = None

    @classmethod
    def after(cls, worker: int, region: int) -> "Seat":
        """Return the seat of a process that takes over from another one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SUCCESSION_BUFFER_BYTES)
        return cls(worker, region, successor_end=theirs, predecessor_end=ours)

    def bootstrap(self, listeners: Listeners) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return the descriptors for the next start, and those to close once it has them."""
        self.close_channel()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(0)
        close_after = [theirs.detach()]
        own: dict[str, Any] = {
            "listener_fds": {key: fd for key, fd in listeners.fds().items() if self.takes(key)},
            "fd_channel": close_after[0],
        }
        if self.successor_end is not None:
            own["succession_fd"] = self.successor_end.detach()
            close_after.append(own["succession_fd"])
            self.successor_end = None
        return own, tuple(close_after)

    def takes(self, key: object) -> bool:
        """Say whether a listening socket is for it: those of UDP have one reader."""
        return self.worker == 0 or not str(key).partition("|")[2].startswith(UDP)

    async def give(self, name: str, key: str, passed: socket.socket, seconds: float) -> None:
        """Give the process one descriptor; ``name`` is whom an error speaks of.

        Raises:
            ChildError: it did not take it.
        """
        try:
            async with asyncio.timeout(seconds):
                channel = self._send(key, passed.fileno())
                answer = await asyncio.get_running_loop().sock_recv(channel, _CHANNEL_BYTES)
        except (TimeoutError, OSError) as error:
            raise ChildUnreachableError(f"{name} did not take {key}: {error}") from error
        if not answer.startswith(b"+"):
            text = answer[1:].decode("utf-8", "replace") or "it has ended"
            raise ChildRefusedError(f"{name} refused {key}: {text}")

    def _send(self, key: str, fd: int) -> socket.socket:
        if self.channel is None:
            raise ConnectionError("it is not running")
        with contextlib.suppress(BlockingIOError):  # an answer that nobody waited for any more
            while self.channel.recv(_CHANNEL_BYTES):
                pass
        socket.send_fds(self.channel, [key.encode()], [fd])
        return self.channel

    def close_channel(self) -> None:
        """The process has ended."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def close_succession(self) -> None:
        """Nobody takes over any more."""
        for end in (self.successor_end, self.predecessor_end):
            if end is not None:
                end.close()
        self.successor_end = self.predecessor_end = None


def sum_listeners(statuses: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    """Add up what edge processes say of listening sockets, by the listener's name and address."""
    total: dict[tuple[str, str], dict[str, int]] = {}
    for status in statuses:
        for entry in status.get("listeners", []):
            counts = total.setdefault((entry["name"], entry["bind"]), {})
            for name in ("connections", "accepted_total", "refused_total"):
                counts[name] = counts.get(name, 0) + entry[name]
    return total
