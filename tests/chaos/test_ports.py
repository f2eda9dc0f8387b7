"""Out of local ports, of TCP for one endpoint, of UDP for all: nobody is blamed."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.support.namespaces import hosts
from tests.support.origin import echoed, held, origins
from tests.support.udp import udp_clients, udp_server
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.chaos]

#: All that this host has for connections to one address.
PORTS = range(61_000, 61_004)
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


async def blamed(weirgate: Running, port: int) -> bool:
    endpoint = await weirgate.endpoint(port)
    failures = await weirgate.metric("weirgate_endpoint_connect_failures_total")
    return bool(endpoint["ejected"]) or endpoint["state"] == "down" or failures != 0


async def without_ports() -> None:
    gate = asyncio.Event()
    async with origins("a", "b") as (one, other), contextlib.AsyncExitStack() as stack:
        one.on("/hold", held(gate))
        config = Configuration().listen("web").listen("another")
        config.pool("one", one.port, all_down="fail_closed")
        config.pool("both", one.port, other.port)
        config.route("both", match={"path": "/both"}, pool="both").route("one", pool="one")
        weirgate = await stack.enter_async_context(running(config))
        RANGE.write_text(f"{PORTS[0]} {PORTS[-1]}")  # noqa: ASYNC240 - of this thread's namespace

        async def client(listener: str) -> Wire:
            return await stack.enter_async_context(connect(weirgate.port(listener)))

        holders = [await client("web") for _ in PORTS]
        for holder in holders:
            await holder.send(request("/hold"))
        await eventually(lambda: len(one.requests) == len(PORTS), what="all ports taken")
        late = await client("another")
        response = await late.exchange(request("/late"))
        assert (response.status, response.reason) == (503, "exhausted")
        for method in ("GET", "POST") * 3:  # nothing was sent: any method is tried elsewhere
            head = request("/both", "Content-Length: 0", method=method)
            assert echoed(await late.exchange(head)).origin == "b"
        gate.set()
        for holder in holders:
            assert (await holder.response()).body == b"held"
        # At once: an ejection would last for a second.
        assert echoed(await late.exchange(request("/again"))).origin == "a"
        assert not await blamed(weirgate, one.port)


async def without_ports_for_datagrams() -> None:
    async with udp_server() as server:
        config = Configuration().listen("voice", protocol="udp", pool="p").pool("p", server.port)
        async with (
            running(config) as weirgate,
            udp_clients(len(PORTS) + 1, weirgate.port("voice")) as clients,  # with their ports
        ):
            RANGE.write_text(f"{PORTS[0]} {PORTS[-1]}")  # noqa: ASYNC240 - of this namespace
            for client in clients[:-1]:
                await client.ask(b"x")
            # The ports are the host's, whatever the endpoint: the session idle for longest ends.
            await clients[-1].ask_until_answered(b"late")
            await weirgate.access.wait_for(lambda entry: entry["reason"] == "session_evicted")
            assert not await blamed(weirgate, server.port)


def test_without_a_local_port_a_session_that_is_idle_makes_room() -> None:
    with hosts("here") as network:
        network.run_on("here", without_ports_for_datagrams)


def test_without_a_local_port_the_next_endpoint_is_tried_and_nobody_is_blamed() -> None:
    with hosts("here") as network:
        network.run_on("here", without_ports)
