"""An operator takes a gateway out of work, and replaces one after the other under load."""

import asyncio
import os
import signal

import pytest

from tests.integration.test_drain import command
from tests.support.load import load
from tests.support.origin import held, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


async def process(weirgate: Running, name: str) -> dict[str, object]:
    return next(p for p in (await weirgate.status())["processes"] if p["name"] == name)


async def test_a_drained_gateway_finishes_ends_and_stays_down_until_undrained() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/hold", held(gate))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            async with connect(weirgate.port()) as one, connect(weirgate.port()) as two:
                for wire in (one, two):
                    await wire.send(request("/hold"))
                await eventually(lambda: len(origin.requests) == 2)
                busy = [p for p in (await weirgate.status())["processes"] if p["tier"] == "gateway"]
                name = next(p["name"] for p in busy if p["connections"])
                waiting = asyncio.create_task(command(weirgate, "drain", name, "--wait"))

                async def draining() -> bool:
                    return (await process(weirgate, name))["state"] == "draining"

                await eventually(draining)
                for _ in range(8):
                    assert (await get(weirgate.port())).status == 200
                assert not waiting.done()
                gate.set()
                for wire in (one, two):
                    assert (await wire.response()).body == b"held"
                done = await waiting
            assert (done.code, done.text) == (0, f"{name}: draining\n{name}: drained\n")
            entry = await process(weirgate, name)
            assert (entry["state"], entry["pid"]) == ("drained", None)
            assert len(weirgate.gateways()) == 1
            # what a reload and a crash of the other do: nothing to it
            weirgate.config.route("more", respond={"body": "x"})
            assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
            os.kill(weirgate.gateways()[0], signal.SIGKILL)
            # they wait for the successor of the killed one; none is queued for the drained one
            answers = await asyncio.gather(*(get(weirgate.port()) for _ in range(16)))
            assert {answer.status for answer in answers} == {200}

            async def back() -> bool:
                processes = (await weirgate.status())["processes"]
                return sorted(p["state"] for p in processes) == ["drained", "ready", "ready"]

            await eventually(back)
            for _ in range(8):
                assert (await get(weirgate.port())).status == 200
            assert (await command(weirgate, "undrain", name)).code == 0

            async def ready() -> bool:
                return (await process(weirgate, name))["state"] == "ready"

            await eventually(ready)
            assert (await process(weirgate, name))["drain"] is None
            assert len(weirgate.gateways()) == 2


async def test_the_last_gateway_needs_force_and_its_clients_wait() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    async with running(config) as weirgate:
        refused = await command(weirgate, "drain", "gateway-0")
        assert refused.code == 1
        assert "no other gateway takes connections" in refused.text
        assert (await get(weirgate.port())).body == b"hello"
        assert (await command(weirgate, "drain", "gateway-0", "--force", "--wait")).code == 0
        assert not await weirgate.ready()
        async with connect(weirgate.port()) as wire:
            await wire.send(request())
            assert (await command(weirgate, "undrain", "gateway-0")).code == 0
            assert (await wire.response()).body == b"hello"
        await eventually(weirgate.ready)


async def test_rolling_replacement_under_load_fails_no_request() -> None:
    async with one_origin() as origin:
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            before = weirgate.gateways()
            async with load(weirgate.port(), connections=8, requests_per_connection=20) as clients:
                await eventually(lambda: clients.ok > 100)
                for name in ("gateway-0", "gateway-1"):
                    done = await command(weirgate, "drain", name, "--replace", "--wait")
                    assert (done.code, done.text.splitlines()[-1]) == (0, f"{name}: replaced")
                seen = clients.ok
                await eventually(lambda: clients.ok > seen + 100)
            assert clients.failures == []
            after = weirgate.gateways()
            assert len(after) == 2
            assert not set(before) & set(after)
            processes = (await weirgate.status())["processes"]
            assert [p["state"] for p in processes] == ["ready"] * 3
            assert "starting it again" not in weirgate.log()


async def test_a_drain_that_is_taken_back_meanwhile_gives_a_fresh_process() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/hold", held(gate))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            async with connect(weirgate.port()) as wire:
                await wire.send(request("/hold"))
                await eventually(lambda: origin.requests)
                found = (await weirgate.status())["processes"]
                name, pid = next(
                    (p["name"], p["pid"])
                    for p in found
                    if p["tier"] == "gateway" and p["connections"]
                )
                assert (await command(weirgate, "drain", name)).code == 0
                done = await command(weirgate, "undrain", name)
                assert (done.code, "finishes" in done.text) == (0, True)
                gate.set()
                assert (await wire.response()).body == b"held"

            async def fresh() -> bool:
                entry = await process(weirgate, name)
                return entry["state"] == "ready" and entry["pid"] not in {pid, None}

            await eventually(fresh)
            assert (await process(weirgate, name))["drain"] is None


async def test_a_second_order_takes_the_place_of_the_first() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/hold", held(gate))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            async with connect(weirgate.port()) as wire:
                await wire.send(request("/hold"))
                await eventually(lambda: origin.requests)
                found = (await weirgate.status())["processes"]
                name = next(p["name"] for p in found if p["requests_in_flight"])
                for _ in range(2):
                    assert (await command(weirgate, "drain", name)).code == 0
                gate.set()
                assert (await wire.response()).body == b"held"

            async def drained() -> bool:
                return (await process(weirgate, name))["state"] == "drained"

            await eventually(drained)
            done = await command(weirgate, "drain", name, "--replace", "--wait")
            assert (done.code, done.text.splitlines()[-1]) == (0, f"{name}: replaced")
            assert (await process(weirgate, name))["state"] == "ready"


async def test_a_deadline_ends_what_does_not_end_by_itself() -> None:
    async with one_origin() as origin:
        origin.on("/hold", held(asyncio.Event()))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            async with connect(weirgate.port()) as wire:
                await wire.send(request("/hold"))
                await eventually(lambda: origin.requests)
                found = (await weirgate.status())["processes"]
                name = next(p["name"] for p in found if p["requests_in_flight"])
                done = await command(weirgate, "drain", name, "--deadline", "200ms", "--wait")
                assert done.code == 0
                await wire.rest()
            entry = await weirgate.access.of("/hold")
            assert entry["reason"] == "draining"


async def test_a_gateway_that_hangs_is_killed_after_its_deadline() -> None:
    config = Configuration(workers=2).listen("web").route("all", respond={"body": "hello"})
    async with running(config) as weirgate:
        pid = (await process(weirgate, "gateway-1"))["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGSTOP)
        done = await command(weirgate, "drain", "gateway-1", "--deadline", "0", "--wait")
        assert (done.code, done.text.splitlines()[-1]) == (0, "gateway-1: drained")
        entry = await process(weirgate, "gateway-1")
        assert entry["state"] == "drained"
        # by the drain, or by the watch over silent processes: whichever is first
        assert str(entry["last_exit"]).startswith("signal SIGKILL")
        assert "killing it" in weirgate.log()


async def test_a_node_that_drains_takes_no_orders() -> None:
    async with one_origin() as origin:
        gate = asyncio.Event()
        origin.on("/hold", held(gate))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        config.route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            weirgate.process.send_signal(signal.SIGTERM)
            await eventually(lambda: "draining" in weirgate.log())
            refused = await command(weirgate, "drain", "gateway-1")
            assert (refused.code, "starting or draining" in refused.text) == (1, True)
            gate.set()
            assert (await wire.response()).body == b"held"
