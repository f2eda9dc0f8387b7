"""Reload: everywhere or nowhere, under load, without a failed request or a closed connection."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.asyncio.server import ServerConnection, serve

from tests.support.load import load
from tests.support.origin import echoed, held, one_origin, origins
from tests.support.tcp import tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

BAD_FILES = sorted((Path(__file__).parents[1] / "golden").rglob("errors/*.yaml"))


def stamped(config: Configuration, stamp: int) -> Configuration:
    """Change what every response carries."""
    edit = {"response_headers": {"set": {"x-stamp": str(stamp)}}}
    config.data["routes"] = []
    return config.route("all", filters=[edit], pool="all")


async def apply(weirgate: Running, config: Configuration) -> None:
    answer = await weirgate.reload(config)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"] == "applied", answer.text


async def test_hundred_reloads_under_load_fail_no_request() -> None:
    async with origins("a", "b") as (a, b):
        config = Configuration(workers=2).listen("web").pool("all", a.port, b.port)
        async with running(stamped(config, 0)) as weirgate:
            async with (
                load(weirgate.port(), connections=8) as kept,
                load(weirgate.port(), connections=4, requests_per_connection=3) as fresh,
            ):
                for number in range(1, 101):
                    await apply(weirgate, stamped(config, number))
                    seen = (await get(weirgate.port())).one("x-stamp")
                    assert seen == str(number)
                await eventually(lambda: kept.ok > 500 and fresh.ok > 100)
            assert kept.failures == [], kept.kinds()
            assert fresh.failures == [], fresh.kinds()
            assert kept.opened == 8
            status = await weirgate.status()
            assert status["generation"] == 101
            assert {p["generation"] for p in status["processes"]} == {101}
            assert [p["restarts"] for p in status["processes"]] == [0, 0, 0]


async def test_request_in_progress_keeps_what_it_began_with() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/hold", held(gate))
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            await apply(weirgate, stamped(config, 2))
            gate.set()
            assert (await wire.response()).one("x-stamp") == "1"
            assert (await wire.exchange(request())).one("x-stamp") == "2"


async def test_websocket_and_tcp_connections_outlive_a_reload() -> None:
    async def talk(connection: ServerConnection) -> None:
        async for text in connection:
            await connection.send(text)

    async with serve(talk, "127.0.0.1", 0) as server, tcp_server() as echo:
        port = next(iter(server.sockets)).getsockname()[1]
        config = Configuration().listen("web").listen("raw", protocol="tcp", pool="raw")
        config.pool("all", port).pool("raw", echo.port)
        async with (
            running(stamped(config, 1)) as weirgate,
            websocket(f"ws://127.0.0.1:{weirgate.port()}/", proxy=None) as talking,
            connect(weirgate.port("raw")) as wire,
        ):
            for number in range(2, 5):
                await apply(weirgate, stamped(config, number))
                await talking.send(str(number))
                assert await talking.recv() == str(number)
                await wire.send(b"x")
                assert await wire.exactly(1) == b"x"


async def test_same_file_changes_nothing() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            before = (await weirgate.status())["hash"]
            answer = (await weirgate.reload()).json()
            assert (answer["result"], answer["generation"]) == ("unchanged", 1)
            assert answer["hash"] == before


async def test_sighup_reloads() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            stamped(config, 2).write(weirgate.file)
            weirgate.process.send_signal(signal.SIGHUP)

            async def changed() -> bool:
                return (await get(weirgate.port())).one("x-stamp") == "2"

            await eventually(changed)


async def test_there_are_bad_files() -> None:
    assert len(BAD_FILES) >= 20


@pytest.mark.parametrize(
    "text",
    [
        "listeners: [",
        "listeners: {web: {bind: 127.0.0.1:1, colour: red}}",
        "",
        'listeners: {web: {bind: "127.0.0.1:1"}}\nroutes: [{pool: nowhere}]',
    ],
    ids=["syntax", "unknown key", "empty", "unknown pool"],
)
async def test_bad_file_is_refused_with_its_line(text: str) -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            await _is_refused(weirgate, text.encode())
            config.write(weirgate.file)


@pytest.mark.slow
async def test_no_bad_file_changes_anything() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            async with load(weirgate.port(), connections=2) as kept:
                for path in BAD_FILES:
                    await _is_refused(weirgate, path.read_bytes())
            assert kept.failures == [], kept.kinds()
            assert await weirgate.metric("weirgate_reload_total", result="refused") >= 1
            stamped(config, 2)
            await apply(weirgate, config)
            assert (await get(weirgate.port())).one("x-stamp") == "2"


async def _is_refused(weirgate: Running, text: bytes) -> None:
    before = await weirgate.status()
    answer = await weirgate.reload(text)
    assert answer.status_code == 422, f"{answer.text} for {text!r}"
    assert answer.json()["errors"]
    assert answer.json()["hash"] == before["hash"]
    assert (await weirgate.status())["hash"] == before["hash"]
    assert (await get(weirgate.port())).one("x-stamp") == "1"


async def test_listener_is_added_and_removed() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            config.listen("second")
            await apply(weirgate, config)
            second = config.port("second")
            async with connect(second) as kept:
                assert (await kept.exchange(request())).status == 200
                del config.data["listeners"]["second"]
                await apply(weirgate, config)

                async def refused() -> bool:
                    try:
                        async with connect(second) as wire:
                            return await wire.rest(within_s=1) == b""
                    except ConnectionRefusedError:
                        return True

                await eventually(refused)
            assert (await get(weirgate.port())).status == 200


async def test_what_a_route_keeps_from_a_listener_stays_so_when_the_listener_goes() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").listen("plain").pool("all", origin.port)
        config.route("closed", match={"listener": "plain"}, respond={"status": 403})
        config.route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port("plain")) as kept:
            assert (await kept.exchange(request())).status == 403
            renamed = {"bind": f"127.0.0.1:{free_port()}"}
            del config.data["listeners"]["plain"]
            config.data["listeners"]["renamed"] = renamed
            config.data["routes"][0]["match"] = {"listener": "renamed"}
            await apply(weirgate, config)
            answer = await kept.exchange(request())
            assert (answer.status, answer.reason) == (404, "no_route")
            assert answer.one("connection") == "close"
            assert origin.requests == []


async def test_listener_that_cannot_be_bound_refuses_the_reload() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate:
            config.listen("taken", bind=f"127.0.0.1:{origin.port}")
            stamped(config, 2)
            answer = await weirgate.reload(config)
            assert answer.status_code == 422
            assert str(origin.port) in answer.text
            assert "in use" in answer.text
            assert (await get(weirgate.port())).one("x-stamp") == "1"


async def test_endpoints_are_replaced() -> None:
    async with origins("a", "b") as (a, b):
        config = Configuration(workers=2).listen("web").pool("all", a.port)
        async with running(stamped(config, 1)) as weirgate, connect(weirgate.port()) as wire:
            assert echoed(await wire.exchange(request())).origin == "a"
            config.pool("all", b.port)
            await apply(weirgate, config)
            for _ in range(10):
                assert echoed(await wire.exchange(request())).origin == "b"


def speaking(config: Configuration, protocol: str) -> Configuration:
    """Change the one listener's protocol, under the same name and address."""
    bind = config.data["listeners"]["web"]["bind"]
    more = {"protocol": "tcp", "pool": "all"} if protocol == "tcp" else {}
    return config.listen("web", bind=bind, **more)


async def hang_up(weirgate: Running, config: Configuration) -> None:
    """Reload by SIGHUP; return when every process has the new configuration."""
    generation = (await weirgate.status())["generation"] + 1

    async def in_force() -> bool:
        status = await weirgate.status()
        seen = {status["generation"], *(p["generation"] for p in status["processes"])}
        return seen == {generation}

    config.write(weirgate.file)
    weirgate.process.send_signal(signal.SIGHUP)
    await eventually(in_force, what=f"generation {generation} in every process")


async def test_listener_changes_its_protocol_and_back() -> None:
    async with one_origin() as origin:
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(stamped(config, 1)) as weirgate, contextlib.AsyncExitStack() as stack:
            port = weirgate.port()
            relayed = []
            for _ in range(3):
                handed_over = await stack.enter_async_context(connect(port))
                assert (await handed_over.exchange(request())).one("x-stamp") == "1"
                await hang_up(weirgate, speaking(config, "tcp"))
                # the gateway has no such listener any more: one answer, and the end
                assert (await handed_over.exchange(request())).one("x-stamp") == "1"
                assert await handed_over.rest() == b""
                relayed.append(await stack.enter_async_context(connect(port)))
                assert (await relayed[-1].exchange(request())).one("x-stamp") is None
                await hang_up(weirgate, speaking(config, "http"))
                assert (await get(port)).one("x-stamp") == "1"
                for wire in relayed:
                    assert (await wire.exchange(request())).one("x-stamp") is None
            processes = (await weirgate.status())["processes"]
            assert [p["restarts"] for p in processes] == [0, 0, 0]


@pytest.mark.parametrize("wanted", ["http", "tcp"])
async def test_change_of_a_protocol_under_load_fails_nobody(wanted: str) -> None:
    other = "tcp" if wanted == "http" else "http"
    async with one_origin() as origin:
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(speaking(stamped(config, 1), other)) as weirgate:
            for _ in range(5):
                async with load(weirgate.port(), connections=8, requests_per_connection=1) as fresh:
                    await eventually(lambda: fresh.ok > 50)
                    await hang_up(weirgate, speaking(config, wanted))
                    target = fresh.ok + 50
                    await eventually(lambda: fresh.ok > target)  # noqa: B023
                assert fresh.kinds()["connect_refused"] == 0
                assert fresh.failures == [], fresh.kinds()
                await hang_up(weirgate, speaking(config, other))
