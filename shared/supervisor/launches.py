"""What a child is started with: its command, its bootstrap and the descriptors that it needs."""

import json
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from weirgate.shared.attach.messages import FIRST_DESCRIPTOR
from weirgate.shared.supervisor.children import Child, Launch
from weirgate.shared.supervisor.edges import Seat
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.handoffs import Handoffs
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.shared_memory import SharedMemory
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.snapshots import InForce

_MODULES = {"edge": "weirgate.edge.process", "gateway": "weirgate.appgw.process"}


@dataclass(frozen=True, slots=True)
class Launcher:
    """Makes what each start needs, of what is in force at that moment."""

    memory: SharedMemory
    handoffs: Handoffs
    listeners: Listeners
    endpoints: EndpointTable
    shuns: ShunTable
    in_force: Callable[[], InForce]
    #: The same for all edge processes of a node, so that they hash alike.
    salt: int = field(default_factory=lambda: secrets.randbits(63))

    def launch(self, child: Child, seat: Seat | None) -> Launch:
        """Return what a child is started with; an edge process has a seat.

        Raises:
            OSError: the node has run out of descriptors.
        """
        snapshot = self.in_force()
        document: dict[str, Any] = {
            "name": child.name,
            "index": child.index,
            "generation": snapshot.generation,
            "control_socket": str(child.control_socket),
            "endpoints": self.endpoints.states(),
            "gateways": self.handoffs.gateways,
        }
        if seat is not None:
            document |= {
                "regions": 2 * self.handoffs.edges,
                "region": seat.region,
                "salt": self.salt,
            }
        own, close_after = self._gateway_fds(child.index) if seat is None else self._edge_fds(seat)
        own["load_page_fd"] = self.memory.page.fd
        pass_fds = tuple(_descriptors(own))
        document |= _renumbered(own) if child.is_seat else own
        if child.tier == "edge" and (shuns := self.shuns.entries()):
            document["shuns"] = shuns
        return Launch(
            command=(sys.executable, "-P", "-m", _MODULES[child.tier]),
            bootstrap=_with_snapshot(document, snapshot.data),
            generation=snapshot.generation,
            pass_fds=pass_fds,
            close_after=close_after,
            control_socket=str(child.control_socket),
        )

    def _gateway_fds(self, index: int) -> tuple[dict[str, Any], tuple[int, ...]]:
        own = self.memory.of_gateway()
        return own | {"handoff_fds": self.handoffs.receiving(index)}, ()

    def _edge_fds(self, seat: Seat) -> tuple[dict[str, Any], tuple[int, ...]]:
        own, close_after = seat.bootstrap(self.listeners)
        own |= {"handoff_fds": self.handoffs.sending(seat.worker)}
        return own | self.memory.of_edge(), close_after


def _descriptors(own: Mapping[str, Any]) -> Iterable[int]:
    for value in own.values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _renumbered(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the descriptors by the numbers that they get in another container, in their order."""
    numbers = count(FIRST_DESCRIPTOR)
    return {
        name: [next(numbers) for _ in value] if isinstance(value, list) else next(numbers)
        for name, value in own.items()
    }


def _with_snapshot(document: Mapping[str, Any], snapshot: bytes) -> bytes:
    """Put the snapshot's own bytes into the bootstrap: parsing a large one again would be waste."""
    head = json.dumps(document, separators=(",", ":")).encode()
    return head[:-1] + b',"snapshot":' + snapshot + b"}"
