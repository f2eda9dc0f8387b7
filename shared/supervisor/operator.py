"""What an operator does to a running node.

Endpoints and gateways are taken out and put back; sources are shunned.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from weirgate.shared.addresses import Prefix
from weirgate.shared.config.compile_pools import endpoint_id
from weirgate.shared.control.operate import Answer, DrainRequest, ShunRequest, UpgradeRequest
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor import view
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.endpoints import Endpoint, EndpointTable
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.presence import NODE, Presence
from weirgate.shared.supervisor.shuns import ShunError, ShunTable
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.upgrade import EdgeUpgrade

log = logging.getLogger(__name__)

_ALL = "*"


class Operator:
    """Carries out drains and shuns.

    The orders themselves are kept by the endpoint table, the children and the table of shuns.
    """

    def __init__(
        self,
        fleet: Fleet,
        table: EndpointTable,
        shuns: ShunTable,
        tasks: Tasks,
        *,
        drain_seconds: Callable[[], float],
        serving: Callable[[], bool],
        upgrade: EdgeUpgrade,
        presence: Presence | None = None,
    ) -> None:
        self._fleet = fleet
        self._table = table
        self._shuns = shuns
        self._tasks = tasks
        self._drain_seconds = drain_seconds
        self._serving = serving
        self._upgrade = upgrade
        self._presence = presence

    async def drain(self, request: DrainRequest) -> Answer:
        """Let a pool's endpoint, all of them, or a gateway take no new work."""
        if not self._serving():
            return _refused(409, request.target, "the node is starting or draining")
        if "/" in request.target:
            return await self._drain_endpoints(request)
        if request.target == NODE and self._presence is not None:
            return self._drain_node(self._presence, request)
        child = self._gateway(request.target)
        if child is None:
            return self._unknown(request.target)
        return await self._drain_gateway(child, request)

    async def undrain(self, target: str, by: str) -> Answer:
        """Take an order back."""
        if target == NODE and self._presence is not None:
            if not self._presence.undrain():
                return _not_drained(target)
            log.warning("undrained by an operator", extra=fields(target=target, by=by))
            finishing = any(child.pid is not None for child in self._fleet.gateways)
            result = "finishing" if finishing else "undrained"
            return Answer(200, {"result": result, "target": target})
        if "/" not in target:
            child = self._gateway(target)
            return self._unknown(target) if child is None else self._undrain_gateway(child, by)
        pool, _, address = target.partition("/")
        # also of an endpoint that a reload has removed meanwhile: its order outlived it
        found = [e.id for e in self._endpoints(target)] or [endpoint_id(pool, address)]
        lifted = [identity for identity in found if self._table.undrain(identity)]
        if not lifted:
            return self._unknown(target) if not self._endpoints(target) else _not_drained(target)
        await self._fleet.tell_endpoints()
        log.warning("undrained by an operator", extra=fields(target=target, by=by))
        return Answer(200, {"result": "undrained", "target": target})

    async def drains(self, target: str = "") -> Sequence[Mapping[str, Any]]:
        """Return the orders in force and how far each has come."""
        wanted = {e.id for e in self._endpoints(target)}
        statuses = await view.child_statuses(self._fleet.children)
        endpoints = [
            self._endpoint_progress(endpoint, statuses)
            for endpoint in self._table
            if endpoint.order is not None and (not target or endpoint.id in wanted)
        ]
        gateways = [
            _gateway_progress(child, child.order, statuses)
            for child in self._fleet.gateways
            if child.order is not None and target in {"", child.name}
        ]
        node = self._node_progress(statuses) if target in {"", NODE} else []
        return [*endpoints, *gateways, *node]

    async def upgrade(self, request: UpgradeRequest) -> Answer:
        """Replace the edge's processes by fresh ones."""
        if not self._serving():
            return _refused(409, request.target, "the node is starting or draining")
        return await self._upgrade.run(request)

    # Sources.

    async def shun(self, request: ShunRequest) -> Answer:
        """Have the edge refuse a source for a while."""
        source = str(request.prefix)
        if not self._serving():
            return _shun_refused(source, "the node is starting or draining")
        try:
            shun = self._shuns.add(
                request.prefix,
                request.seconds,
                by=request.by,
                reason=request.reason,
                force=request.force,
            )
        except ShunError as error:
            return _shun_refused(source, str(error))
        log.warning(
            "shunned by an operator",
            extra=fields(
                source=source, by=request.by, seconds=request.seconds, reason=request.reason
            ),
        )
        told = await self._fleet.shun_updates.tell_now()
        until = {"since": shun.since, "until": shun.until}
        answer = {"result": "shunned", "source": source, "in_force": told, **until}
        return Answer(200, answer)

    async def unshun(self, prefix: Prefix, by: str) -> Answer:
        """Take a source back."""
        source = str(prefix)
        if not self._shuns.remove(prefix):
            return Answer(200, {"result": "unchanged", "source": source})
        log.warning("no longer shunned by an operator", extra=fields(source=source, by=by))
        told = await self._fleet.shun_updates.tell_now()
        return Answer(200, {"result": "removed", "source": source, "in_force": told})

    def shuns(self) -> Sequence[Mapping[str, Any]]:
        """Return who is shunned, why, by whom and for how long."""
        return self._shuns.shown()

    # Endpoints.

    async def _drain_endpoints(self, request: DrainRequest) -> Answer:
        target = request.target
        targets = self._endpoints(target)
        if not targets:
            return self._unknown(target)
        if request.replace:
            return _refused(422, target, "replace is for gateways: endpoints are not ours to start")
        pool = targets[0].pool
        chosen = {endpoint.id for endpoint in targets}
        if not request.force and not self._leaves_one(pool, chosen):
            why = f"no endpoint of pool {pool} would be left to take work"
            return _refused(409, target, f"{why}: its clients would be refused; --force does it")
        order = Order(request.by, request.deadline_seconds)
        for identity in chosen:
            self._table.drain(identity, order)
        await self._fleet.tell_endpoints()
        log.warning(
            "draining by an operator's order",
            extra=fields(target=target, by=order.by, deadline=order.deadline_seconds),
        )
        if order.deadline_seconds is not None:
            self._tasks.once(f"drain {target}", self._close_later(chosen, order))
        return Answer(202, {"result": "draining", "target": target, **order.as_dict()})

    async def _close_later(self, chosen: Iterable[str], order: Order) -> None:
        await asyncio.sleep(order.deadline_seconds or 0)
        if self._table.close(chosen, order):
            await self._fleet.tell_endpoints()

    def _endpoints(self, target: str) -> list[Endpoint]:
        pool, _, address = target.partition("/")
        return [e for e in self._table if e.pool == pool and address in {_ALL, e.address}]

    def _leaves_one(self, pool: str, without: set[str]) -> bool:
        return any(
            endpoint.weight > 0 and endpoint.state in {"up", "unknown"}
            for endpoint in self._table
            if endpoint.pool == pool and endpoint.id not in without
        )

    def _endpoint_progress(
        self, endpoint: Endpoint, statuses: Mapping[str, view.Status]
    ) -> dict[str, Any]:
        assert endpoint.order is not None  # noqa: S101 - the caller has looked
        counts = [self._busy(child, endpoint, statuses) for child in self._fleet.children]
        return {
            "target": f"{endpoint.pool}/{endpoint.address}",
            "kind": "endpoint",
            **endpoint.order.as_dict(),
            "left": sum(count or 0 for count in counts),
            "drained": all(count == 0 for count in counts),
        }

    def _busy(
        self, child: Child, endpoint: Endpoint, statuses: Mapping[str, view.Status]
    ) -> int | None:
        """Count what a child still has on an endpoint; None = it is not known."""
        if child.pid is None:
            return 0
        status = statuses.get(child.name)
        if status is None:
            return None
        entry = next((e for e in status["endpoints"] if e["id"] == endpoint.id), None)
        if entry is None:  # none of its pools
            return 0
        if entry["state"] != "draining":
            return None
        # a gateway keeps idle connections for later; the edge's are streams, one being made is one
        counted = "connections" if child.tier == "edge" else "requests_in_flight"
        return int(entry[counted])

    # The whole of a gateway node.

    def _drain_node(self, presence: Presence, request: DrainRequest) -> Answer:
        if request.replace:
            return _refused(422, NODE, "replace is for single gateways")
        if presence.order is not None:
            shown = presence.order.as_dict()
            return Answer(202, {"result": "draining", "target": NODE, **shown})
        seconds = request.deadline_seconds
        order = Order(request.by, self._drain_seconds() if seconds is None else seconds)
        log.warning(
            "draining by an operator's order",
            extra=fields(target=NODE, by=order.by, deadline=order.deadline_seconds),
        )
        presence.drain(order)
        return Answer(202, {"result": "draining", "target": NODE, **order.as_dict()})

    def _node_progress(self, statuses: Mapping[str, view.Status]) -> list[dict[str, Any]]:
        order = self._presence.order if self._presence else None
        if order is None:
            return []
        gateways = self._fleet.gateways
        left = sum(statuses.get(child.name, {}).get("connections", 0) for child in gateways)
        done = all(child.state == "drained" for child in gateways)
        return [{"target": NODE, "kind": "node", **order.as_dict(), "left": left, "drained": done}]

    # Gateways.

    async def _drain_gateway(self, child: Child, request: DrainRequest) -> Answer:
        others = [g for g in self._fleet.gateways if g is not child and g.takes_work]
        if not others and not request.force:
            why = "no other gateway takes connections"
            after = (
                "until the fresh process is ready" if request.replace else "until it is undrained"
            )
            text = f"{why}: new clients would wait {after}; --force does it"
            return _refused(409, child.name, text)
        seconds = request.deadline_seconds
        order = Order(
            request.by,
            self._drain_seconds() if seconds is None else seconds,
            replace=request.replace,
            incarnation=child.incarnation,
        )
        log.warning(
            "draining by an operator's order",
            extra=fields(target=child.name, by=order.by, deadline=order.deadline_seconds),
        )
        await self._fleet.drain_gateway(child, order)
        return Answer(202, {"result": "draining", "target": child.name, **order.as_dict()})

    def _undrain_gateway(self, child: Child, by: str) -> Answer:
        if child.order is None:
            return _not_drained(child.name)
        log.warning("undrained by an operator", extra=fields(target=child.name, by=by))
        finishing = child.pid is not None
        child.release()
        result = "finishing" if finishing else "undrained"
        return Answer(200, {"result": result, "target": child.name})

    def _gateway(self, name: str) -> Child | None:
        return next((child for child in self._fleet.gateways if child.name == name), None)

    def _unknown(self, target: str) -> Answer:
        gateways = ", ".join(child.name for child in self._fleet.gateways)
        pools = ", ".join(dict.fromkeys(endpoint.pool for endpoint in self._table))
        if self._presence is not None:
            gateways += f", {NODE}"
        wanted = f"pool/address or pool/* (pools: {pools or 'none'})"
        wanted += f", or one of {gateways}" if gateways else ""
        return Answer(
            404,
            {
                "result": "unknown",
                "target": target,
                "error": f"nothing here is called {target}; wanted {wanted}",
            },
        )


def _gateway_progress(
    child: Child, order: Order | None, statuses: Mapping[str, view.Status]
) -> dict[str, Any]:
    status = statuses.get(child.name, {})
    return {
        "target": child.name,
        "kind": "gateway",
        **(order.as_dict() if order else {}),
        "left": status.get("connections", 0),
        "drained": child.state == "drained",
    }


def _refused(status: int, target: str, why: str) -> Answer:
    return Answer(status, {"result": "refused", "target": target, "error": why})


def _shun_refused(source: str, why: str) -> Answer:
    return Answer(409, {"result": "refused", "source": source, "error": why})


def _not_drained(target: str) -> Answer:
    return Answer(200, {"result": "unchanged", "target": target})
