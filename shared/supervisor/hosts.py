"""What a node has to do with other hosts: an edge finds gateway nodes, a gateway node tells edges.

A node that runs both tiers has nothing to do here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from weirgate.shared.addresses import parse_prefix
from weirgate.shared.config import ConfigErrors
from weirgate.shared.config.nodes import POOL, Role
from weirgate.shared.discovery.dns import Resolver
from weirgate.shared.supervisor import listeners as binding
from weirgate.shared.supervisor.errors import InheritedError
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.gateway_names import GatewayNames
from weirgate.shared.supervisor.node_load import NodeLoadServer
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.presence import Presence
from weirgate.shared.supervisor.socket_store import KeptSockets
from weirgate.shared.supervisor.tasks import Tasks


class OtherHosts:
    """The hosts of the other tier, seen from this node."""

    def __init__(self, planner: Planner, resolver: Resolver, tasks: Tasks) -> None:
        self._planner = planner
        self._tasks = tasks
        self._names = GatewayNames(resolver, planner.names)
        self._load_server: NodeLoadServer | None = None
        #: Of a gateway node that has begun to start.
        self.presence: Presence | None = None

    @property
    def role(self) -> Role:
        """Which tiers this node runs."""
        return self._planner.role

    def bind(self, plan: Plan, kept: KeptSockets) -> list[str]:
        """Bind where a gateway node tells its load; return what is wrong."""
        bound, failures = [], []
        for address in plan.settings.load_binds:
            try:
                bound.append(binding.open_one(address, kept))
            except InheritedError as error:
                failures.append(f"gateway.nodes.health: {error}")
            except OSError as error:
                failures.append(f"gateway.nodes.health: {binding.explain(address, error)}")
        if bound:
            self._load_server = NodeLoadServer(bound, self._report)
        return failures

    async def find(self, plan: Plan) -> Plan:
        """Return the plan with the gateway nodes that names lead to, at most 2 s later."""
        await self._names.watch(plan.settings.gateway_names)
        if not self._planner.names:
            return plan
        # a file that has changed since the sockets were bound is for a reload
        with contextlib.suppress(ConfigErrors):
            found = await asyncio.to_thread(self._planner.plan)
            if found.keys() == plan.keys():
                self._names.taken()
                return found
        return plan

    async def start(
        self,
        fleet: Fleet,
        plan: Callable[[], Plan],
        *,
        serving: Callable[[], bool],
        leaving: Callable[[], bool],
    ) -> None:
        """Tell edges of this node from now on, if it is a gateway node."""
        if self._load_server is None:
            return
        self.presence = Presence(
            fleet,
            self._tasks,
            notice_seconds=lambda: plan().settings.notice_seconds,
            serving=serving,
            leaving=leaving,
        )
        await self.follow(plan())
        await self._load_server.start()

    async def follow(self, plan: Plan) -> None:
        """Do as a plan that has come into force says."""
        if self._load_server is not None:
            networks = map(parse_prefix, plan.settings.edges)
            self._load_server.edges = tuple(network for network in networks if network)
        await self._names.watch(plan.settings.gateway_names)

    def keep_finding(self, reload: Callable[[], Awaitable[bool]]) -> None:
        """Reload whenever names lead to other gateway nodes."""
        self._tasks.keep("gateway names", lambda: self._names.keep_telling(reload))

    async def give_notice(self, *, unless: asyncio.Event) -> None:
        """Return when every edge must know that this node drains, or at once when told to."""
        if self.presence is None:
            return
        notice = asyncio.create_task(self.presence.give_notice())
        hurry = asyncio.create_task(unless.wait())
        await asyncio.wait({notice, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (notice, hurry):
            task.cancel()
        await asyncio.gather(notice, hurry, return_exceptions=True)

    async def close(self) -> None:
        """Ask and tell no more."""
        if self._load_server is not None:
            self._load_server.close()
        await self._names.close()

    def _report(self) -> Mapping[str, Any]:
        return self.presence.report() if self.presence else {"state": "starting"}


def gateways_of(plan: Plan) -> list[str]:
    """Say how many gateways there are, here or on other hosts, and where their load is told."""
    count, what = plan.settings.workers, "gateway"
    if plan.settings.role is Role.EDGE:
        pool = next((pool for pool in plan.value["pools"] if pool["name"] == POOL), None)
        count, what = len(pool["endpoints"]) if pool else 0, "gateway node"
    if plan.settings.attach_socket is not None:
        return [f"gateways attach at {plan.settings.attach_socket}"]
    load = [f"load http://{bind}/load" for bind in plan.settings.load_binds]
    return [f"{count} {what}{'' if count == 1 else 's'}", *load]
