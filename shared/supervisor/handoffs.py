"""The queues of connections between edges and gateways, which outlive both."""

import itertools
import logging
import socket
from collections.abc import Sequence
from typing import Protocol

from weirgate.shared.messages import close_all
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

_BUFFER_BYTES = 1024 * 1024
_HEADER_BYTES = 4096
#: Of a message (docs/contracts.md, section 1): whether the edge wants to hear of the end.
_FLAGS = slice(6, 8)


class Page(Protocol):
    """The supervisor's view of the load page."""

    @property
    def fd(self) -> int:
        """The memfd."""

    def set_state(self, index: int, state: str) -> None:
        """Set a gateway's state."""

    def count_taken(self, index: int) -> None:
        """A connection has left a gateway's queue."""

    def read(self) -> list[dict[str, object]]:
        """Return every slot."""


class Handoff:
    """One gateway's socket pair; both ends stay open, so that its queue outlives the gateway."""

    def __init__(self) -> None:
        self.sending, self.receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.sending, self.receiving):
            end.settimeout(0)
        self.sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def close(self) -> None:
        """Close both ends."""
        self.sending.close()
        self.receiving.close()


class Handoffs:
    """The queues of every edge worker to every gateway.

    Each worker has its own: an end told to one edge must not be heard by another.
    """

    def __init__(self, *, edges: int, gateways: int) -> None:
        self.edges = edges
        self.gateways = gateways
        self._queues = [[Handoff() for _ in range(gateways)] for _ in range(edges)]

    def sending(self, worker: int) -> list[int]:
        """Return the descriptors by which an edge worker sends, by gateway."""
        return [queue.sending.fileno() for queue in self._queues[worker]]

    def receiving(self, index: int) -> list[int]:
        """Return the descriptors by which a gateway receives, by edge worker."""
        return [queues[index].receiving.fileno() for queues in self._queues]

    def move(self, vacant: Sequence[int], taking: Sequence[int], page: Page) -> None:
        """Give what waits for vacant gateways to gateways that take work, if there are any."""
        if not taking:
            return
        for queues in self._queues:
            for index in vacant:
                move(queues[index], [queues[other] for other in taking], page, index)

    def close(self) -> None:
        """Close every queue."""
        for queues in self._queues:
            for queue in queues:
                queue.close()


def move(queue: Handoff, others: Sequence[Handoff], page: Page, index: int) -> int:
    """Give what waits in the queue of gateway ``index`` to others in turn; return how many.

    The edge holds no place in a limit for them any more: it would wait for the gateway that it
    sent them to. What finds no room is reset, as it would have been had the queue been lost.
    """
    moved = 0
    for other in itertools.cycle(others):
        try:
            message, fds, _, _ = socket.recv_fds(queue.receiving, _HEADER_BYTES, 1)
        except BlockingIOError:
            return moved
        page.count_taken(index)
        header = bytearray(message)
        header[_FLAGS] = bytes(2)
        try:
            socket.send_fds(other.sending, [header], fds)
            moved += 1
        except OSError as error:
            log.warning("a queued connection is lost", extra=fields(error=error))
        finally:
            close_all(fds)
    return moved
