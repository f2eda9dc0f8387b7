"""An operator takes endpoints out of work and puts them back: by command and by API."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.origin import Origin, held, one_origin
from tests.support.processes import Finished, finished
from tests.support.tcp import TcpServer, tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.weirgate import COMMAND, Running, running
from tests.support.wire import Wire, connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

FAST_CHECK = {"tcp": True, "interval": "50ms", "timeout": "1s", "fall": 1, "rise": 1}


async def command(weirgate: Running, *arguments: str, within_s: float = 60.0) -> Finished:
    """Run a verb against the running node."""
    admin = f"http://127.0.0.1:{weirgate.config.admin_port}"
    return await finished(*COMMAND, *arguments, "--admin", admin, within_s=within_s)


@dataclass
class Site:
    """Two endpoints of each kind behind one node."""

    weirgate: Running
    origins: list[Origin]
    servers: list[TcpServer]

    def http_target(self, number: int) -> str:
        return f"web/127.0.0.1:{self.origins[number].port}"

    def tcp_target(self, number: int) -> str:
        return f"echo/127.0.0.1:{self.servers[number].port}"

    async def answering(self) -> set[int]:
        """Say which origins answer a row of requests."""
        before = [len(origin.requests) for origin in self.origins]
        for _ in range(12):
            assert (await get(self.weirgate.port())).status == 200
        return {n for n, o in enumerate(self.origins) if len(o.requests) > before[n]}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    config = Configuration().listen("web").listen("tcp", protocol="tcp", pool="echo")
    async with one_origin() as one, one_origin() as two, tcp_server() as red, tcp_server() as blue:
        config.pool("web", one.port, two.port, balance="round_robin").route("all", pool="web")
        config.pool("echo", red.port, blue.port, balance="round_robin")
        async with running(config) as weirgate:
            yield Site(weirgate, [one, two], [red, blue])


async def spoken(wire: Wire) -> None:
    await wire.send(b"x")
    assert await wire.exactly(1) == b"x"


async def test_a_drained_endpoint_gets_nothing_new_and_what_it_has_is_finished(site: Site) -> None:
    gate = asyncio.Event()
    for origin in site.origins:
        origin.on("/hold", held(gate))
    async with connect(site.weirgate.port()) as one, connect(site.weirgate.port()) as two:
        for wire in (one, two):
            await wire.send(request("/hold"))
        await eventually(lambda: sum(len(o.requests) for o in site.origins) == 2)
        done = await command(site.weirgate, "drain", site.http_target(0))
        assert (done.code, done.text) == (0, f"{site.http_target(0)}: draining\n")
        assert await site.answering() == {1}
        waiting = asyncio.create_task(
            command(site.weirgate, "drain", site.http_target(0), "--wait", "--json")
        )
        drains = (await site.weirgate.admin.get("/drain")).json()["drains"]
        assert [(d["target"], d["left"], d["drained"]) for d in drains] == [
            (site.http_target(0), 1, False)
        ]
        assert not waiting.done()
        gate.set()
        for wire in (one, two):
            assert (await wire.response()).body == b"held"
        assert json.loads((await waiting).out) == {
            "target": site.http_target(0), "result": "drained", "ok": True,
        }  # fmt: skip
    entry = await site.weirgate.endpoint(site.origins[0].port)
    assert entry["state"] == "draining"
    assert "@" in entry["drain"]["by"]
    shown = await command(site.weirgate, "status")
    assert "draining by" in shown.text
    assert (await command(site.weirgate, "undrain", site.http_target(0))).code == 0
    assert await site.answering() == {0, 1}
    again = await command(site.weirgate, "undrain", site.http_target(0))
    assert (again.code, again.text) == (0, f"{site.http_target(0)}: was not drained\n")


async def test_a_drain_survives_reloads_and_restarts_of_children(site: Site) -> None:
    weirgate = site.weirgate
    target = site.http_target(0)
    answer = await weirgate.admin.post("/drain", params={"target": target, "by": "alice"})
    assert answer.status_code == 202
    weirgate.config.route("more", respond={"body": "x"})
    assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
    assert await site.answering() == {1}
    for pid in weirgate.gateways() + weirgate.edges():
        os.kill(pid, signal.SIGKILL)

    async def back() -> bool:
        processes = (await weirgate.status())["processes"]
        return all(p["state"] == "ready" and p["restarts"] == 1 for p in processes)

    await eventually(back)
    assert await site.answering() == {1}
    # its endpoint leaves the file and comes back: the order was given to the endpoint, not the file
    endpoints = weirgate.config.data["pools"]["web"]["endpoints"]
    removed = endpoints.pop(0)
    assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
    endpoints.append(removed)
    assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
    assert await site.answering() == {1}
    assert (await weirgate.endpoint(site.origins[0].port))["drain"]["by"] == "alice"


async def test_the_last_endpoint_needs_force(site: Site) -> None:
    assert (await command(site.weirgate, "drain", site.http_target(0))).code == 0
    for target in (site.http_target(1), "web/*"):
        refused = await command(site.weirgate, "drain", target)
        assert refused.code == 1
        assert "no endpoint of pool web would be left" in refused.text
    assert await site.answering() == {1}
    assert (await command(site.weirgate, "drain", "web/*", "--force", "--wait")).code == 0
    response = await get(site.weirgate.port())
    assert (response.status, response.one("weirgate-reason")) == (503, "no_endpoint")
    assert (await command(site.weirgate, "undrain", "web/*")).code == 0
    assert await site.answering() == {0, 1}


async def test_what_does_not_exist_is_named(site: Site) -> None:
    for target in ("web/127.0.0.1:1", "nope/*", "gateway-9", "edge-0"):
        done = await command(site.weirgate, "drain", target)
        assert done.code == 2
        assert f"nothing here is called {target}" in done.text
        assert "gateway-0" in done.text
    bad = await command(site.weirgate, "drain", site.http_target(0), "--deadline", "30")
    assert bad.code == 2
    assert "--deadline" in bad.text


async def test_streams_go_on_until_the_deadline_and_are_reset_then(site: Site) -> None:
    port = site.weirgate.port("tcp")
    async with connect(port) as one, connect(port) as two:
        for wire in (one, two):
            await spoken(wire)
        drained = next(n for n, server in enumerate(site.servers) if server.accepted)
        target = site.tcp_target(drained)
        assert (await command(site.weirgate, "drain", target)).code == 0
        before = site.servers[drained].accepted
        for _ in range(4):
            async with connect(port) as fresh:
                await spoken(fresh)
        assert site.servers[drained].accepted == before
        for wire in (one, two):
            await spoken(wire)
        done = await command(site.weirgate, "drain", target, "--deadline", "300ms", "--wait")
        assert (done.code, done.text.splitlines()[-1]) == (0, f"{target}: drained")
        entry = await site.weirgate.access.wait_for(lambda e: e["reason"] == "draining")
        assert entry["endpoint"] == target.partition("/")[2]
        ended = 0
        for wire in (one, two):
            try:
                await spoken(wire)
            except (ConnectionError, asyncio.IncompleteReadError):
                ended += 1
        assert ended == 1, "the streams of the other endpoint are untouched"
    await eventually(lambda: "reset" in site.servers[drained].endings)


async def test_an_endpoint_of_a_tcp_and_a_udp_listener_is_counted_once() -> None:
    """Two threads of the edge serve such a pool; what either has is left."""
    config = Configuration().listen("tcp", protocol="tcp", pool="both")
    config.listen("udp", protocol="udp", pool="both")
    async with tcp_server() as stream, udp_server(port=stream.port) as datagrams:
        config.pool("both", stream.port)
        target = f"both/127.0.0.1:{datagrams.port}"
        async with running(config) as weirgate:

            async def left() -> tuple[int, bool]:
                (drain,) = (await weirgate.admin.get("/drain")).json()["drains"]
                return drain["left"], drain["drained"]

            async def nothing_left() -> bool:
                return await left() == (0, True)

            async with udp_client(weirgate.port("udp")) as client:
                async with connect(weirgate.port("tcp")) as wire:
                    await spoken(wire)
                    await client.ask(b"x")

                    async def two() -> bool:  # the check at the start may still be there
                        return bool((await weirgate.endpoint(stream.port))["connections"] == 2)

                    await eventually(two, what="a stream and a session")
                    ordered = {"target": target, "force": "true"}
                    answer = await weirgate.admin.post("/drain", params=ordered)
                    assert answer.status_code == 202
                    assert await left() == (2, False)

                async def one_left() -> bool:
                    return await left() == (1, False)

                await eventually(one_left, what="only the session is left")
            closing = {**ordered, "deadline_ms": "1"}
            await weirgate.admin.post("/drain", params=closing)
            await eventually(nothing_left, what="the session has ended at the deadline")


async def test_wait_ends_with_5_when_requests_go_on_after_the_deadline(site: Site) -> None:
    gate = asyncio.Event()
    for origin in site.origins:
        origin.on("/hold", held(gate))
    async with connect(site.weirgate.port()) as one, connect(site.weirgate.port()) as two:
        for wire in (one, two):
            await wire.send(request("/hold"))
        await eventually(lambda: sum(len(o.requests) for o in site.origins) == 2)
        done = await command(
            site.weirgate, "drain", site.http_target(0), "--deadline", "0", "--wait"
        )
        assert done.code == 5
        assert "not drained in time, 1 left" in done.text
        gate.set()
        for wire in (one, two):
            assert (await wire.response()).body == b"held"


@pytest.mark.parametrize("on_down", ["keep", "close"])
async def test_established_streams_of_an_endpoint_that_goes_down(on_down: str) -> None:
    async with tcp_server() as server, tcp_server() as other:
        config = Configuration().listen("tcp", protocol="tcp", pool="echo")
        config.pool("echo", server.port, other.port, on_down=on_down, health=FAST_CHECK)
        async with (
            running(config) as weirgate,
            connect(weirgate.port("tcp")) as one,
            connect(weirgate.port("tcp")) as two,
        ):
            for wire in (one, two):
                await spoken(wire)
            assert server._server is not None
            server._server.close()  # it accepts no more; its connections live

            async def down() -> bool:
                return bool((await weirgate.endpoint(server.port))["state"] == "down")

            await eventually(down)
            if on_down == "close":
                entry = await weirgate.access.wait_for(lambda e: e["reason"] == "endpoint_down")
                assert entry["endpoint"] == f"127.0.0.1:{server.port}"
                await eventually(lambda: "reset" in server.endings)
                assert await weirgate.counted("endpoint_down") == 1
            alive = 0
            for wire in (one, two):
                try:
                    await spoken(wire)
                    alive += 1
                except (ConnectionError, asyncio.IncompleteReadError):
                    pass
            assert alive == (1 if on_down == "close" else 2)
