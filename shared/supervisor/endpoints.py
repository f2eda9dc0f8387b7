"""Every endpoint's state by identity: its addresses (discovery) and its health (the prober).

The table outlives reloads. What it says goes whole to every data plane whenever it changes.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weirgate.shared.addresses import is_literal, join_address, split_address
from weirgate.shared.health.check import Check, Target, from_pool
from weirgate.shared.health.result import NodeLoad, Result
from weirgate.shared.health.state import HealthState
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.orders import Order

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Endpoint:
    """One endpoint of one pool."""

    id: str
    pool: str
    address: str
    weight: int = 1
    check: Check | None = None
    #: None = a name that was never resolved.
    addresses: tuple[str, ...] | None = None
    name_error: str = ""
    health: HealthState = field(default_factory=HealthState)
    #: An operator's drain.
    order: Order | None = None
    #: The pool's ``on_down: close``.
    ends_when_down: bool = False
    #: Checks in a row for which not even a connection could be made.
    unreached: int = 0
    #: A gateway node: what it last said of itself, and the how-manieth check that was.
    load: NodeLoad | None = None
    load_number: int = 0
    #: A gateway node that wants nothing new.
    wants_nothing: bool = False

    @property
    def host_name(self) -> str | None:
        """The name to resolve; None for a literal address."""
        host, _ = split_address(self.address)
        return None if is_literal(host) else host

    @property
    def state(self) -> str:
        """What the data planes are told."""
        if self.order is not None:
            return "draining"
        if not self.addresses:
            return "down"
        if self.check is None:
            return "unknown"
        return "draining" if self.wants_nothing and self.health.state == "up" else self.health.state

    @property
    def cut_off(self) -> bool:
        """A gateway node that is down because nothing of its host answers: its kernel is silent.

        What is open to it would hang. Of one whose supervisor alone is silent, streams go on.
        """
        if self.check is None or self.check.kind != "gateway":
            return False
        return self.health.state == "down" and self.unreached >= self.check.fall

    @property
    def closing(self) -> bool:
        """Whether what it still carries is to be ended."""
        if self.cut_off or self.order is None:
            return self.cut_off
        return self.order.closing or (self.ends_when_down and self.health.state == "down")


class EndpointTable:
    """All endpoints of the configuration in force.

    ``changed`` is called after each change of a state, ``loads_changed`` of a load only.
    """

    def __init__(
        self, changed: Callable[[], None], loads_changed: Callable[[], None] | None = None
    ) -> None:
        self._changed = changed
        self._loads_changed = loads_changed or changed
        self._endpoints: dict[str, Endpoint] = {}
        #: By identity, also of endpoints that a reload has removed: they may come back.
        self._orders: dict[str, Order] = {}

    def load(self, pools: Sequence[Mapping[str, Any]]) -> None:
        """Take the pools of a snapshot; an endpoint that was there keeps its state."""
        known = self._endpoints
        self._endpoints = {}
        for pool in pools:
            check = from_pool(pool)
            for entry in pool["endpoints"]:
                endpoint = known.get(entry["id"])
                if endpoint is None:
                    endpoint = Endpoint(entry["id"], pool["name"], entry["address"])
                    endpoint.addresses = None if endpoint.host_name else (endpoint.address,)
                if check is None:
                    endpoint.health = HealthState()
                    endpoint.unreached, endpoint.load, endpoint.wants_nothing = 0, None, False
                endpoint.check, endpoint.weight = check, entry["weight"]
                endpoint.ends_when_down = pool.get("on_down") == "close"
                endpoint.order = self._orders.get(endpoint.id)
                self._endpoints[endpoint.id] = endpoint
        self._changed()

    def __iter__(self) -> Any:
        return iter(self._endpoints.values())

    def drain(self, endpoint_id: str, order: Order) -> None:
        """Let an endpoint take no new work, until ``undrain``."""
        self._orders[endpoint_id] = order
        if endpoint_id in self._endpoints:
            self._endpoints[endpoint_id].order = order
        self._changed()

    def undrain(self, endpoint_id: str) -> bool:
        """Take the order back; say whether there was one."""
        if self._orders.pop(endpoint_id, None) is None:
            return False
        if endpoint_id in self._endpoints:
            self._endpoints[endpoint_id].order = None
        self._changed()
        return True

    def close(self, chosen: Iterable[str], order: Order) -> bool:
        """Let the deadline of an order pass; say whether it still holds for one of these."""
        order.closing = any(self._orders.get(endpoint_id) is order for endpoint_id in chosen)
        if order.closing:
            self._changed()
        return order.closing

    def targets(self) -> list[Target]:
        """Return what the prober has to check."""
        return [Target(e.id, e.address, e.check) for e in self if e.check is not None]

    def names(self) -> set[str]:
        """Return the host names to resolve."""
        return {e.host_name for e in self if e.host_name}

    def addresses(self, endpoint_id: str) -> Sequence[str]:
        """Return where to reach an endpoint now."""
        endpoint = self._endpoints.get(endpoint_id)
        return (endpoint.addresses or ()) if endpoint else ()

    def resolved(self, name: str, found: tuple[str, ...] | None, error: str) -> None:
        """Take a name's addresses; None keeps the last good ones."""
        changed = False
        for endpoint in self:
            if endpoint.host_name != name:
                continue
            endpoint.name_error = error
            if found is None:
                continue
            _, port = split_address(endpoint.address)
            addresses = tuple(join_address(host, port) for host in found)
            changed |= addresses != endpoint.addresses
            endpoint.addresses = addresses
        if changed:
            log.info("name resolved", extra=fields(name=name, addresses=",".join(found or ())))
            self._changed()

    def record(self, target: Target, result: Result) -> None:
        """Take one health check's result."""
        endpoint = self._endpoints.get(target.endpoint_id)
        if endpoint is None:  # removed while its check was under way
            return
        if result.inconclusive:
            return
        check = target.check
        first = endpoint.health.state == "unknown"
        before = (endpoint.state, endpoint.closing)
        endpoint.unreached = endpoint.unreached + 1 if result.unreachable else 0
        turned = endpoint.health.record(result, rise=check.rise, fall=check.fall, now=time.time())
        if result.passed:
            endpoint.wants_nothing = result.draining
        if result.load is not None and (result.load != endpoint.load or result.load.connections):
            # the same figures again are news: who has come and gone since the last ones is in them
            endpoint.load, endpoint.load_number = result.load, endpoint.health.checks_total
            self._loads_changed()
        if not turned:
            if before != (endpoint.state, endpoint.closing):
                log.warning(
                    "endpoint is %s",
                    "cut off" if endpoint.closing else endpoint.state,
                    extra=fields(pool=endpoint.pool, endpoint=endpoint.address),
                )
                self._changed()
            return
        level = logging.INFO if result.passed else logging.WARNING
        if not (first and result.passed):
            log.log(
                level,
                "endpoint is %s",
                endpoint.health.state,
                extra=fields(pool=endpoint.pool, endpoint=endpoint.address, error=result.error),
            )
        self._changed()

    def states(self) -> list[dict[str, Any]]:
        """Return the whole list in the form of docs/contracts.md, section 2."""
        return [
            {"id": e.id, "state": e.state, "addresses": list(e.addresses or ())}
            | ({"closing": True} if e.closing else {})
            | ({"load": _reported(e)} if e.load else {})
            for e in self
        ]

    def encoded(self) -> bytes:
        """Return the states as JSON bytes."""
        return json.dumps(self.states(), separators=(",", ":")).encode()


def _reported(endpoint: Endpoint) -> dict[str, int]:
    assert endpoint.load is not None  # noqa: S101 - the caller has looked
    return {
        "number": endpoint.load_number,
        "units": endpoint.load.units,
        "per_connection": endpoint.load.per_connection,
    }
