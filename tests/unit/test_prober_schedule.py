"""Rise and fall, the prober's rhythm, and the table that both feed."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_prober_checks import CHECK, Peer, serving
from weirgate.shared.health.check import Target
from weirgate.shared.health.prober import Prober
from weirgate.shared.health.result import Result
from weirgate.shared.health.state import HealthState
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.testing import eventually, free_port

UP, DOWN = Result(), Result("status 500")
GOOD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def states(*results: Result, rise: int = 2, fall: int = 3) -> list[str]:
    health = HealthState()
    seen = []
    for result in results:
        health.record(result, rise=rise, fall=fall, now=0.0)
        seen.append(health.state)
    return seen


@pytest.mark.parametrize(("first", "state"), [(UP, "up"), (DOWN, "down")])
def test_the_first_result_decides_at_once(first: Result, state: str) -> None:
    assert states(first) == [state]


def test_it_takes_fall_failures_in_a_row_to_go_down() -> None:
    assert states(UP, DOWN, DOWN, UP, DOWN, DOWN, DOWN) == ["up"] * 6 + ["down"]


def test_it_takes_rise_successes_in_a_row_to_come_back() -> None:
    assert states(DOWN, UP, DOWN, UP, UP) == ["down"] * 4 + ["up"]


def test_counts_and_the_last_error_are_kept() -> None:
    health = HealthState()
    assert health.record(DOWN, rise=1, fall=1, now=7.0)
    assert health.record(UP, rise=1, fall=1, now=9.0)
    assert (health.checks_total, health.failures_total) == (2, 1)
    assert (health.last_error, health.since) == ("status 500", 9.0)


class Seen:
    """Results by endpoint, as the prober records them."""

    def __init__(self) -> None:
        self.results: list[tuple[str, Result]] = []

    def record(self, target: Target, result: Result) -> None:
        self.results.append((target.endpoint_id, result))

    def count(self, endpoint_id: str) -> int:
        return sum(seen == endpoint_id for seen, _ in self.results)


@pytest.mark.anyio
async def test_every_target_is_checked_at_once_and_then_again() -> None:
    seen = Seen()
    check = replace(CHECK, interval=0.02)
    async with serving(Peer(GOOD)) as peer:
        prober = Prober(lambda _: [peer.address], seen.record, spread=random.Random(1))
        prober.update([Target("a", peer.address, check), Target("b", peer.address, check)])
        await eventually(lambda: seen.count("a") >= 3 and seen.count("b") >= 3)
        await prober.close()
    assert {result for _, result in seen.results} == {UP}


@pytest.mark.anyio
async def test_a_target_that_did_not_change_keeps_its_rhythm() -> None:
    seen = Seen()
    async with serving(Peer(GOOD)) as peer:
        prober = Prober(lambda _: [peer.address], seen.record)
        slow = replace(CHECK, interval=3600.0)
        prober.update([Target("a", peer.address, slow)])
        await eventually(lambda: seen.count("a") == 1)
        prober.update([Target("a", peer.address, slow), Target("b", peer.address, slow)])
        await eventually(lambda: seen.count("b") == 1)
        assert seen.count("a") == 1
        prober.update([Target("a", peer.address, replace(slow, path="/other"))])
        await eventually(lambda: seen.count("a") == 2)
        await prober.close()


@pytest.mark.anyio
async def test_a_removed_target_is_checked_no_more() -> None:
    seen = Seen()
    check = replace(CHECK, interval=0.005)
    async with serving(Peer(GOOD)) as peer:
        prober = Prober(lambda _: [peer.address], seen.record)
        prober.update([Target("a", peer.address, check), Target("b", peer.address, check)])
        await eventually(lambda: seen.count("a") >= 1)
        prober.update([Target("b", peer.address, check)])
        before = seen.count("a")
        goal = seen.count("b") + 5
        await eventually(lambda: seen.count("b") >= goal)
        await prober.close()
    assert seen.count("a") <= before + 1  # one may have been under way


@pytest.mark.anyio
async def test_a_crash_in_one_check_is_a_failure_and_not_the_end_of_checking() -> None:
    seen = Seen()

    def addresses(_: str) -> list[str]:
        raise LookupError("boom")

    prober = Prober(addresses, seen.record)
    prober.update([Target("a", "127.0.0.1:1", replace(CHECK, interval=0.005))])
    await eventually(lambda: seen.count("a") >= 2)
    await prober.close()
    assert seen.results[0][1] == Result("the check itself failed: LookupError: boom")


def pool(*addresses: str, health: bool = True) -> dict[str, Any]:
    check = {
        "kind": "tcp",
        "interval_ms": 5000,
        "timeout_ms": 2000,
        "rise": 1,
        "fall": 1,
        "jitter_percent": 0,
        "port": None,
    }
    return {
        "name": "api",
        "tls": None,
        "health": check if health else None,
        "endpoints": [{"id": a, "address": a, "weight": 1} for a in addresses],
    }


class Table:
    """A table, and how often it said that it changed."""

    def __init__(self, *pools: dict[str, Any]) -> None:
        self.changes = 0
        self.table = EndpointTable(self._changed)
        self.table.load(pools)

    def _changed(self) -> None:
        self.changes += 1

    def state(self, endpoint_id: str) -> tuple[str, list[str]]:
        entry = next(e for e in json.loads(self.table.encoded()) if e["id"] == endpoint_id)
        return entry["state"], entry["addresses"]


def test_without_a_check_an_endpoint_is_unknown_and_a_name_down_until_resolved() -> None:
    table = Table(pool("10.0.0.1:80", "app.example:80", health=False))
    assert table.state("10.0.0.1:80") == ("unknown", ["10.0.0.1:80"])
    assert table.state("app.example:80") == ("down", [])
    assert table.table.names() == {"app.example"}
    table.table.resolved("app.example", ("10.0.0.9", "fd00::9"), "")
    assert table.state("app.example:80") == ("unknown", ["10.0.0.9:80", "[fd00::9]:80"])


def test_a_failed_resolution_keeps_the_last_good_addresses_and_is_told() -> None:
    table = Table(pool("app.example:80", health=False))
    table.table.resolved("app.example", ("10.0.0.9",), "")
    before = table.changes
    table.table.resolved("app.example", None, "no answer")
    assert table.state("app.example:80") == ("unknown", ["10.0.0.9:80"])
    assert [e.name_error for e in table.table] == ["no answer"]
    assert table.changes == before


def test_a_change_of_state_is_announced_and_a_repetition_is_not() -> None:
    table = Table(pool("10.0.0.1:80"))
    (target,) = table.table.targets()
    before = table.changes
    table.table.record(target, DOWN)
    table.table.record(target, DOWN)
    assert table.changes == before + 1
    assert table.state("10.0.0.1:80")[0] == "down"


def test_state_survives_a_reload_and_leaves_with_the_endpoint() -> None:
    table = Table(pool("10.0.0.1:80", "10.0.0.2:80"))
    for target in table.table.targets():
        table.table.record(target, DOWN)
    table.table.load([pool("10.0.0.1:80", "10.0.0.3:80")])
    assert table.state("10.0.0.1:80")[0] == "down"
    assert table.state("10.0.0.3:80")[0] == "unknown"
    table.table.load([pool("10.0.0.2:80")])
    assert table.state("10.0.0.2:80")[0] == "unknown"


def test_a_result_for_a_removed_endpoint_is_ignored() -> None:
    table = Table(pool("10.0.0.1:80"))
    (target,) = table.table.targets()
    table.table.load([])
    table.table.record(target, DOWN)
    assert list(table.table) == []


def test_removing_the_check_makes_the_state_unknown_again() -> None:
    table = Table(pool("10.0.0.1:80"))
    (target,) = table.table.targets()
    table.table.record(target, DOWN)
    table.table.load([pool("10.0.0.1:80", health=False)])
    assert table.state("10.0.0.1:80")[0] == "unknown"


def test_jitter_stays_within_its_share_of_the_interval() -> None:
    prober = Prober(lambda _: [], lambda *_: None, spread=random.Random(7))
    target = Target("a", f"127.0.0.1:{free_port()}", replace(CHECK, interval=10.0, jitter=0.2))
    pauses = [prober._pause(target) for _ in range(1000)]
    assert 8.0 <= min(pauses) < 8.2
    assert 11.8 < max(pauses) <= 12.0
