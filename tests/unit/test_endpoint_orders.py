"""An operator's drain in the endpoint table: by identity, over reloads and health."""

import json
from typing import Any

from weirgate.shared.config.compile_pools import endpoint_id
from weirgate.shared.health.check import Check
from weirgate.shared.health.result import Result
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.orders import Order

A, B = "10.0.0.1:80", "10.0.0.2:80"


def pool(*addresses: str, on_down: str = "keep", checked: bool = False) -> dict[str, Any]:
    health = {"kind": "tcp", "interval_ms": 1, "timeout_ms": 1, "rise": 1, "fall": 1,
              "jitter_percent": 0, "port": None}  # fmt: skip
    return {
        "name": "p",
        "on_down": on_down,
        "health": health if checked else None,
        "endpoints": [{"id": endpoint_id("p", a), "address": a, "weight": 1} for a in addresses],
    }


class Table(EndpointTable):
    """A table that counts how often it changed."""

    def __init__(self) -> None:
        self.changes = 0
        super().__init__(self.count)

    def count(self) -> None:
        self.changes += 1

    def told(self) -> list[tuple[str, bool]]:
        return [(s["state"], s.get("closing", False)) for s in json.loads(self.encoded())]


def test_an_order_is_told_kept_and_taken_back() -> None:
    table = Table()
    table.load([pool(A, B)])
    before = table.changes
    table.drain(endpoint_id("p", A), Order("alice"))
    assert table.told() == [("draining", False), ("unknown", False)]
    assert table.changes == before + 1
    table.load([pool(B)])
    assert table.told() == [("unknown", False)]
    table.load([pool(B, A)])
    assert table.told() == [("unknown", False), ("draining", False)]
    assert table.undrain(endpoint_id("p", A))
    assert not table.undrain(endpoint_id("p", A))
    assert table.told() == [("unknown", False)] * 2


def test_an_order_for_an_endpoint_that_left_can_be_taken_back() -> None:
    table = Table()
    table.load([pool(A)])
    table.drain(endpoint_id("p", A), Order("alice"))
    table.load([])
    assert table.undrain(endpoint_id("p", A))
    table.load([pool(A)])
    assert table.told() == [("unknown", False)]


def test_only_the_deadline_of_the_order_in_force_counts() -> None:
    table = Table()
    table.load([pool(A)])
    identity = endpoint_id("p", A)
    old, new = Order("alice", 1.0), Order("bob", 2.0)
    table.drain(identity, old)
    table.drain(identity, new)
    assert not table.close([identity], old)
    assert table.told() == [("draining", False)]
    assert table.close([identity], new)
    assert table.told() == [("draining", True)]
    table.undrain(identity)
    assert table.told() == [("unknown", False)]


def test_a_draining_endpoint_that_dies_is_closed_where_the_pool_says_so() -> None:
    for on_down, closing in (("keep", False), ("close", True)):
        table = Table()
        table.load([pool(A, on_down=on_down, checked=True)])
        table.drain(endpoint_id("p", A), Order("alice"))
        (target,) = table.targets()
        assert isinstance(target.check, Check)
        table.record(target, Result("refused"))
        assert table.told() == [("draining", closing)]
        table.undrain(endpoint_id("p", A))
        assert table.told() == [("down", False)]
