"""SIGSTOP of each kind of process: one that hangs without ending is replaced, and no other is."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import load
from tests.support.origin import held, one_origin
from tests.support.processes import descriptor_limit, established
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.slow]

SILENCE_S = 5.0
#: Found out in five seconds and a half, started in half a second; a busy machine takes longer.
REPLACED_WITHIN_S = 10.0


@pytest.fixture
async def weirgate() -> AsyncIterator[Running]:
    """Two gateways in front of one origin."""
    config = Configuration(workers=2).listen("web")
    async with one_origin() as origin:
        config.pool("all", origin.port).route("all", pool="all")
        async with running(config) as instance:
            yield instance


async def halted(pid: int) -> float:
    """Stop a process; return when it stood still."""

    def stands() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    os.kill(pid, signal.SIGSTOP)
    await eventually(stands)
    return time.monotonic()


async def passed(seconds: float) -> None:
    """Let a process be silent for so long: here the time is the cause, not what is waited for."""
    until = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() >= until, within_s=seconds + 1)


async def process(weirgate: Running, name: str) -> dict[str, Any]:
    """Return what the node says of one of its processes."""
    found = (await weirgate.status())["processes"]
    return next(dict(p) for p in found if p["name"] == name)


async def replaced_for_its_silence(weirgate: Running, name: str, pid: int, since: float) -> None:
    """Wait until a stopped process has a successor, and see that everybody is told why."""
    await weirgate.replaced(name, pid, within_s=2 * REPLACED_WITHIN_S)
    took = time.monotonic() - since
    assert SILENCE_S - 1.5 < took <= REPLACED_WITHIN_S
    now = await process(weirgate, name)
    assert (now["restarts"], now["last_exit"]) == (1, "signal SIGKILL, it hung")
    restarts = "weirgate_child_restarts_total"
    assert await weirgate.metric(restarts, process=name, reason="hung") == 1
    assert await weirgate.metric(restarts) == 1
    lines = [line for line in weirgate.log().splitlines() if "child hangs" in line]
    assert len(lines) == 1
    assert f" error child hangs, killing it process={name} pid={pid} silent=" in lines[0]


async def test_hanging_gateway_is_replaced_while_the_other_serves(weirgate: Running) -> None:
    port = weirgate.port()
    async with (
        load(port, connections=4) as kept,
        load(port, connections=2, requests_per_connection=1) as fresh,
    ):
        await eventually(lambda: kept.ok > 200 and fresh.ok > 50)
        pid = (await process(weirgate, "gateway-0"))["pid"]
        held_by_it = established(pid, port)
        since = await halted(pid)
        served = kept.ok
        await eventually(lambda: kept.ok > served + 200)
        await replaced_for_its_silence(weirgate, "gateway-0", pid, since)
        later = kept.ok + 200, fresh.ok + 50
        await eventually(lambda: kept.ok > later[0] and fresh.ok > later[1])
    # A short connection may have ended and another begun between counting and stopping.
    assert len(kept.failures) + len(fresh.failures) <= held_by_it + 2
    assert len(kept.failures) < 4
    # What was sent to it while it hung waited for its successor.
    assert kept.opened_after(since) == [], kept.kinds()
    assert fresh.opened_after(since) == [], fresh.kinds()


async def test_gateway_that_hangs_while_it_drains_is_replaced() -> None:
    config = Configuration().listen("web")
    async with one_origin() as origin:
        origin.on("/hold", held(asyncio.Event()))
        config.pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            (pid,) = weirgate.gateways()
            os.kill(pid, signal.SIGTERM)

            async def draining() -> bool:
                return bool((await process(weirgate, "gateway-0"))["state"] == "draining")

            await eventually(draining)
            since = await halted(pid)
            await replaced_for_its_silence(weirgate, "gateway-0", pid, since)
            assert (await get(weirgate.port())).status == 200
            await wire.rest()


async def test_hanging_edge_is_replaced_and_new_connections_only_wait(weirgate: Running) -> None:
    port = weirgate.port()
    async with (
        load(port, connections=4) as kept,
        load(port, connections=2, requests_per_connection=1) as fresh,
    ):
        await eventually(lambda: kept.ok > 200 and fresh.ok > 50)
        (pid,) = weirgate.edges()
        since = await halted(pid)
        served = kept.ok
        await eventually(lambda: kept.ok > served + 200)
        await replaced_for_its_silence(weirgate, "edge-0", pid, since)
        later = kept.ok + 200, fresh.ok + 50
        await eventually(lambda: kept.ok > later[0] and fresh.ok > later[1])
    assert kept.failures == [], kept.kinds()
    # Accepted by the hanging edge and not yet given away: only this can be lost, never a refusal.
    assert fresh.kinds()["connect_refused"] == 0
    assert len(fresh.failures) <= 1, fresh.kinds()
    assert fresh.opened_after(since) == [], fresh.kinds()


async def test_supervisor_that_was_stopped_itself_kills_nobody(weirgate: Running) -> None:
    family = weirgate.edges(), weirgate.gateways()
    async with load(weirgate.port(), connections=4) as kept:
        await eventually(lambda: kept.ok > 200)
        await halted(weirgate.pid)
        await passed(SILENCE_S + 2)
        os.kill(weirgate.pid, signal.SIGCONT)
        await eventually(lambda: "held up itself" in weirgate.log())
        await passed(2)
        served = kept.ok
        await eventually(lambda: kept.ok > served + 200)
    assert kept.failures == [], kept.kinds()
    assert (weirgate.edges(), weirgate.gateways()) == family
    assert [p["restarts"] for p in (await weirgate.status())["processes"]] == [0, 0, 0]


async def test_edge_without_a_free_descriptor_is_not_taken_for_a_hanging_one(
    weirgate: Running,
) -> None:
    (pid,) = weirgate.edges()
    async with contextlib.AsyncExitStack() as stack:
        with descriptor_limit(pid, 3):  # the first three are always taken
            wire = await stack.enter_async_context(connect(weirgate.port()))
            await wire.send(request())
            await passed(SILENCE_S + 2)
            assert weirgate.edges() == [pid]
        assert (await wire.response()).status == 200
    assert await weirgate.metric("weirgate_edge_accept_exhausted_total") > 0
    assert (await process(weirgate, "edge-0"))["restarts"] == 0
