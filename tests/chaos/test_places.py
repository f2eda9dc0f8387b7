"""Places in a listener's limits come back when the gateway that held the connections is killed."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

LIMIT = 8
LIMITS = pytest.mark.parametrize(
    ("limit", "reason"),
    [("connections_per_source", "source_limit"), ("max_connections", "listener_full")],
)


@contextlib.asynccontextmanager
async def limited(limit: str, *, workers: int) -> AsyncIterator[Running]:
    config = Configuration(workers=workers).listen("web", **{limit: LIMIT})
    async with running(config.route("all", respond={"body": "hello"})) as weirgate:
        yield weirgate


async def admitted(stack: contextlib.AsyncExitStack, port: int) -> Wire | None:
    """Connect and ask; return the connection, which lives as long as the stack, or None."""
    with contextlib.suppress(ConnectionError, AssertionError):
        wire = await stack.enter_async_context(connect(port))
        assert (await wire.exchange(request())).status == 200
        return wire
    return None


async def fill(stack: contextlib.AsyncExitStack, weirgate: Running, places: int) -> None:
    """Take exactly so many places: each may come back a moment late, and the next is refused."""

    async def taken() -> bool:
        return await admitted(stack, weirgate.port()) is not None

    for _ in range(places):
        await eventually(taken, what="a place in the limit")
    assert await admitted(stack, weirgate.port()) is None


async def has_open(weirgate: Running, count: int) -> bool:
    return await weirgate.metric("weirgate_edge_connections", listener="web") == count


def is_stopped(pid: int) -> bool:
    """Say whether every thread of a process stands still: until then, one may go on working."""
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


@LIMITS
async def test_places_of_a_killed_gateway_come_back_and_no_others(limit: str, reason: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        weirgate = await stack.enter_async_context(limited(limit, workers=2))
        await fill(stack, weirgate, LIMIT)
        for _ in range(3):
            processes = (await weirgate.status())["processes"]
            gateways = [p for p in processes if p["tier"] == "gateway"]
            assert sum(p["connections"] for p in gateways) == LIMIT
            busier = max(gateways, key=lambda p: p["connections"])
            name, pid, held = busier["name"], busier["pid"], busier["connections"]
            os.kill(pid, signal.SIGKILL)
            await weirgate.replaced(name, pid)
            await fill(stack, weirgate, held)
        assert await has_open(weirgate, LIMIT)
        assert await weirgate.counted(reason) >= 4


@LIMITS
async def test_places_come_back_when_the_only_gateway_is_killed_again_and_again(
    limit: str, reason: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        weirgate = await stack.enter_async_context(limited(limit, workers=1))
        for _ in range(3):
            await fill(stack, weirgate, LIMIT)
            (pid,) = weirgate.gateways()
            os.kill(pid, signal.SIGKILL)
            await weirgate.replaced("gateway-0", pid)
        assert await weirgate.counted(reason) >= 3


@LIMITS
async def test_connection_that_a_successor_takes_keeps_its_place(limit: str, reason: str) -> None:
    """What is queued for a gateway when it is killed is served by the next one, and counts."""
    async with contextlib.AsyncExitStack() as stack:
        weirgate = await stack.enter_async_context(limited(limit, workers=1))
        (pid,) = weirgate.gateways()
        await eventually(lambda: has_open(weirgate, 0))  # the node tried its own door at the start
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: is_stopped(pid))
        waiting = [await stack.enter_async_context(connect(weirgate.port())) for _ in range(LIMIT)]
        for wire in waiting:
            await wire.send(request())

        async def queued() -> bool:
            return await weirgate.metric("weirgate_edge_handoffs_total") >= LIMIT

        await eventually(queued)
        os.kill(pid, signal.SIGKILL)
        await weirgate.replaced("gateway-0", pid)
        for wire in waiting:
            assert (await wire.response()).status == 200
        assert await admitted(stack, weirgate.port()) is None
        assert await weirgate.counted(reason) == 1
