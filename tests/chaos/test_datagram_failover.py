"""kill -9 of a udp listener's endpoint under load: every flow goes elsewhere, little is lost.

The same with 200 Mbit/s for a minute, by hand: `python -m benchmarks.datagram_failover`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from benchmarks.datagram_failover import Outcome, outcome_of, queue_drops
from benchmarks.datagram_sink import read_counts

from tests.support.processes import finished, process
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.slow]

FLOWS, RATE, SECONDS, BYTES = 120, 2400, 4, 200
SINKS = 3


@contextlib.asynccontextmanager
async def sink(directory: Path) -> AsyncIterator[tuple[int, int]]:
    """Run an endpoint that counts; its port and process id."""
    port = free_port(socket.SOCK_DGRAM)
    command = (sys.executable, "-m", "benchmarks.datagram_sink", str(port), str(FLOWS))
    log, counts = directory / f"{port}.log", directory / f"{port}.counts"
    async with process(*command, counts, log=log) as child:
        await eventually(lambda: port in queue_drops(), what="an endpoint")
        yield port, child.pid


async def _outcome(directory: Path, target: int, ports: list[int], victim: int) -> Outcome:
    """Send to the target, kill the first endpoint halfway, and compare."""
    command = (sys.executable, "-m", "benchmarks.datagram_flows", str(target))
    load = ("--flows", str(FLOWS), "--rate", str(RATE), "--size", str(BYTES), "--echo-every", "4")
    sending = asyncio.create_task(finished(*command, *load, "--seconds", str(SECONDS)))

    def datagrams(port: int) -> int:
        return sum(read_counts(directory / f"{port}.counts", FLOWS).datagrams)

    half = RATE * SECONDS / 2 / SINKS
    await eventually(lambda: datagrams(ports[0]) > half, within_s=30, what="half of them")
    os.kill(victim, signal.SIGKILL)
    killed_ns = time.monotonic_ns()
    done = await sending
    assert done.code == 0, done.text
    seen = [read_counts(directory / f"{port}.counts", FLOWS) for port in ports]
    return outcome_of(json.loads(done.out), seen, killed_ns=killed_ns)


async def test_every_flow_of_a_killed_endpoint_moves(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(sink(tmp_path)) for _ in range(SINKS)]
        ports, victim = [port for port, _ in sinks], sinks[0][1]
        config = Configuration().listen("stream", protocol="udp", pool="sinks")
        config.pool("sinks", *ports, balance="round_robin")
        config.data["drain"] = {"timeout": "100ms"}  # ends the sessions, which are idle then
        weirgate = await stack.enter_async_context(running(config))
        outcome = await _outcome(tmp_path, weirgate.port("stream"), ports, victim)
        dropped = await weirgate.metric("weirgate_edge_datagrams_dropped_total", listener="stream")
        await weirgate.stop()
        moves = [entry["moves"] for entry in weirgate.access.entries()]
    print(outcome)  # noqa: T201 - shown when it fails
    assert outcome.sent == RATE * SECONDS
    assert outcome.flows_of_the_killed == outcome.flows_that_moved == FLOWS / SINKS
    assert outcome.flows_without_an_echo_at_the_end == 0
    # A datagram is lost that was in the killed queue, or that its host refused before Weirgate
    # knew: at most one of each flow, for then the endpoint is ejected, and what a stalled machine
    # has in its queues at that moment.
    assert dropped <= FLOWS / SINKS
    assert 0 <= outcome.lost <= FLOWS / SINKS + RATE * 0.25
    # One refusal is enough: it is ejected for a second, and no flow comes back meanwhile or later.
    assert sorted(moves) == [0] * (FLOWS - FLOWS // SINKS) + [1] * (FLOWS // SINKS)
