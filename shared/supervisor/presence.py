"""Whether a gateway node wants connections, and how it leaves: the edges are told first."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.tasks import Tasks

log = logging.getLogger(__name__)

#: An operator's name for the whole of a gateway node.
NODE = "node"


class Presence:
    """What a gateway node says of itself.

    A node that closed its listener at once would reset what an edge has just sent. So it first says
    that it drains, until every edge must have asked (``notice_seconds``), and only then finishes.
    """

    def __init__(
        self,
        fleet: Fleet,
        tasks: Tasks,
        *,
        notice_seconds: Callable[[], float],
        serving: Callable[[], bool],
        leaving: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._notice_seconds = notice_seconds
        self._serving = serving
        self._leaving = leaving
        #: An operator's drain of the whole node.
        self.order: Order | None = None

    @property
    def state(self) -> str:
        """``ready``, ``draining`` or ``starting``."""
        fleet = self._fleet
        held = all(gateway.order is not None for gateway in fleet.gateways)
        if self._leaving() or self.order is not None or held:
            return "draining"
        return "ready" if self._serving() and fleet.ready else "starting"

    def report(self) -> Mapping[str, Any]:
        """Return what the edges read: the state, and the load of the processes that take work."""
        taking = {gateway.index for gateway in self._fleet.gateways if gateway.takes_work}
        slots = [slot for slot in self._fleet.page.read() if slot["index"] in taking]

        def total(name: str) -> int:
            return sum(int(str(slot[name])) for slot in slots)

        return {
            "state": self.state,
            "connections": total("connections"),
            "requests_in_flight": total("requests_in_flight"),
            "latency_us": max((int(str(slot["latency_us"])) for slot in slots), default=0),
            "workers": len(taking),
        }

    async def give_notice(self) -> None:
        """Return when every edge must know that this node drains."""
        known_for = time.time() - self.order.since if self.order else 0.0
        seconds = max(0.0, self._notice_seconds() - known_for)
        log.info("telling the edges that this node drains", extra=fields(seconds=f"{seconds:.1f}"))
        await asyncio.sleep(seconds)

    def drain(self, order: Order) -> None:
        """Let the whole node take no new work, until ``undrain``."""
        self.order = order
        self._tasks.once(f"drain {NODE}", self._drain_gateways(order))

    def undrain(self) -> bool:
        """Take the order back; say whether there was one. What finishes gets a successor."""
        if self.order is None:
            return False
        self.order = None
        for gateway in self._fleet.gateways:
            if gateway.order is not None:
                gateway.release()
        return True

    async def _drain_gateways(self, order: Order) -> None:
        await self.give_notice()
        if self.order is not order:  # taken back, or given anew, meanwhile
            return
        for gateway in self._fleet.gateways:
            own = Order(order.by, order.deadline_seconds, incarnation=gateway.incarnation)
            await self._fleet.drain_gateway(gateway, own)
