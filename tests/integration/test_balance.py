"""Balance: clients by hash, bounded load, backups, zones, slow start, ejected for hanging up."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from tests.support.origin import Origin, echoed, origins
from tests.support.tcp import TcpServer, tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

CHECK: dict[str, Any] = {
    "path": "/healthz",
    "interval": "100ms",
    "timeout": "1s",
    "rise": 1,
    "fall": 1,
}
CLIENTS = [f"10.0.{number // 200}.{number % 200}" for number in range(256)]


def web(*endpoints: Origin, workers: int = 2, **pool: Any) -> Configuration:
    """Return a configuration that believes the client's own word on who it is."""
    config = Configuration(workers=workers).listen("web", trusted_proxies=["127.0.0.0/8"])
    return config.route("all", pool="all").pool("all", *(e.port for e in endpoints), **pool)


async def homes(weirgate: Running, clients: Iterable[str] = CLIENTS) -> dict[str, str]:
    """Say which origin answers each client; every connection may meet another gateway."""
    found = {}
    for client in clients:
        response = await get(weirgate.port(), "/", f"X-Forwarded-For: {client}")
        assert response.status == 200
        found[client] = echoed(response).origin
    return found


async def answering(weirgate: Running, count: int = 20) -> Counter[str]:
    return Counter([echoed(await get(weirgate.port(), "/")).origin for _ in range(count)])


async def only(weirgate: Running, *names: str) -> None:
    """Wait until exactly these origins answer."""

    async def seen() -> bool:
        return set(await answering(weirgate)) == set(names)

    await eventually(seen, what=f"only {names} answer")


async def test_maglev_keeps_each_client_and_a_new_endpoint_takes_only_its_share() -> None:
    async with (
        origins("a", "b", "c", "d", "e") as servers,
        running(web(*servers[:4], balance="maglev")) as weirgate,
    ):
        before = await homes(weirgate)
        assert min(Counter(before.values()).values()) > 30
        assert await homes(weirgate) == before
        answer = await weirgate.reload(web_like(weirgate, reversed(servers)))
        assert answer.json()["result"] == "applied", answer.text
        after = await homes(weirgate)
        moved = {client for client in CLIENTS if before[client] != after[client]}
        to_new = {client for client in moved if after[client] == "e"}
        assert 20 <= len(to_new) <= 90, "a fifth of 256 is 51"
        assert len(moved - to_new) <= 20, "the table moves a few more, not many"


def web_like(weirgate: Running, endpoints: Iterable[Origin]) -> Configuration:
    """Return the running configuration with other endpoints."""
    weirgate.config.pool("all", *(e.port for e in endpoints), balance="maglev")
    return weirgate.config


async def test_maglev_moves_only_the_clients_of_a_dead_endpoint_and_brings_them_back() -> None:
    async with (
        origins("a", "b", "c", "d") as servers,
        running(web(*servers, balance="maglev")) as weirgate,
    ):
        before = await homes(weirgate)
        await servers[0].stop()
        after = await homes(weirgate)
        assert "a" not in after.values()
        assert all(after[c] == home for c, home in before.items() if home != "a")
        homeless = Counter(after[c] for c, home in before.items() if home == "a")
        assert set(homeless) == {"b", "c", "d"}, "they are spread"
        await servers[0].start()

        async def back() -> bool:
            return await homes(weirgate) == before

        await eventually(back)


def named(name: bytes) -> TcpServer:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        await reader.read()

    return TcpServer(greet)


async def greeting(weirgate: Running, listener: str, local: str) -> bytes:
    async with connect(weirgate.port(listener), local=local) as wire:
        return await wire.exactly(1)


async def test_maglev_on_a_tcp_listener_by_port_by_source_and_by_prefix() -> None:
    config = Configuration()
    by_network = {"policy": "maglev", "ipv4_prefix": 24}
    async with named(b"a") as a, named(b"b") as b, named(b"c") as c:
        for name, balance in {
            "port": "maglev",
            "source": {"policy": "maglev", "key": "source"},
            "network": by_network,
        }.items():
            config.listen(name, protocol="tcp", pool=name)
            config.pool(name, a.port, b.port, c.port, balance=balance)
        async with running(config) as weirgate:

            async def of(listener: str, *locals_: str) -> set[bytes]:
                return {await greeting(weirgate, listener, local) for local in locals_}

            network = [f"127.0.7.{number}" for number in range(1, 41)]
            networks = [f"127.0.{number}.1" for number in range(1, 41)]
            assert await of("port", *["127.0.0.1"] * 40) == {b"a", b"b", b"c"}
            assert len(await of("source", *["127.0.0.9"] * 10)) == 1
            assert await of("source", *network) == {b"a", b"b", b"c"}
            assert len(await of("network", *network)) == 1
            assert await of("network", *networks) == {b"a", b"b", b"c"}


async def test_bounded_load_sends_the_clients_of_a_full_endpoint_elsewhere() -> None:
    config = Configuration().listen("raw", protocol="tcp", pool="raw")
    balance = {"policy": "maglev", "key": "source", "max_load_percent": 110}
    async with named(b"a") as a, named(b"b") as b, contextlib.AsyncExitStack() as held:
        config.pool("raw", a.port, b.port, balance=balance)
        async with running(config) as weirgate:
            names = Counter[bytes]()
            for _ in range(40):  # one client, whom a hash alone would keep in one place
                wire = await held.enter_async_context(connect(weirgate.port("raw")))
                names[await wire.exactly(1)] += 1
            assert max(names.values()) <= 22, "110 % of half of 40"
            await held.aclose()


async def test_backups_answer_only_when_too_few_of_the_first_are_left() -> None:
    async with origins("a", "b", "c") as (a, b, c):
        config = web(a, health=CHECK)
        config.data["pools"]["all"]["endpoints"] = [
            {"address": f"127.0.0.1:{c.port}", "priority": 1},
            f"127.0.0.1:{a.port}",
            f"127.0.0.1:{b.port}",
        ]
        async with running(config) as weirgate:
            await only(weirgate, "a", "b")
            await a.stop()
            assert "c" not in await answering(weirgate, 40), "half is enough"
            await b.stop()
            assert await answering(weirgate, 40) == {"c": 40}
            await b.start()
            await only(weirgate, "b")
            await a.start()
            await only(weirgate, "a", "b")


async def test_the_own_zone_answers_while_it_is_up() -> None:
    async with origins("near", "far", "nowhere") as (near, far, nowhere):
        config = web(near, health=CHECK)
        config.data["node"] = {"zone": "${ZONE}"}
        config.data["pools"]["all"]["endpoints"] = [
            {"address": f"127.0.0.1:{far.port}", "zone": "b"},
            {"address": f"127.0.0.1:{near.port}", "zone": "a"},
            f"127.0.0.1:{nowhere.port}",
        ]
        async with running(config, env={"ZONE": "a"}) as weirgate:
            assert await answering(weirgate, 40) == {"near": 40}
            await near.stop()
            assert set(await answering(weirgate, 40)) == {"far", "nowhere"}
            await near.start()
            await only(weirgate, "near")


async def test_an_endpoint_that_comes_back_gets_a_growing_share() -> None:
    async with origins("a", "b") as (a, b):
        config = web(a, b, workers=1, balance="round_robin", slow_start="6s", health=CHECK)
        async with running(config) as weirgate:
            assert (await answering(weirgate, 40))["a"] == 20, "at the start nobody is cold"
            await a.stop()
            await only(weirgate, "b")

            async def down() -> bool:
                return bool((await weirgate.endpoint(a.port))["state"] == "down")

            await eventually(down)
            await a.start()

            async def first() -> bool:
                return "a" in await answering(weirgate, 1)

            await eventually(first)
            early = (await answering(weirgate, 60))["a"]
            assert 1 <= early <= 20, f"{early} of 60"

            async def whole() -> bool:
                return (await answering(weirgate, 20))["a"] == 10

            await eventually(whole, within_s=15)


@contextlib.asynccontextmanager
async def relaying(other: TcpServer, **pool: Any) -> AsyncIterator[Running]:
    async with named(b"a") as good:
        config = Configuration().listen("raw", protocol="tcp", pool="raw")
        config.pool("raw", good.port, other.port, balance="round_robin", **pool)
        async with running(config) as weirgate:
            yield weirgate


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def received(weirgate: Running, count: int) -> Counter[bytes]:
    found = Counter[bytes]()
    for _ in range(count):
        async with connect(weirgate.port("raw")) as wire:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                found[await wire.exactly(1)] += 1
    return found


async def test_an_endpoint_that_hangs_up_unasked_is_ejected_where_that_is_wanted() -> None:
    async with tcp_server(hang_up) as dead:
        async with relaying(dead, eject={"early_close": "1s"}) as weirgate:

            async def ejected() -> bool:
                await received(weirgate, 4)
                return bool((await weirgate.endpoint(dead.port))["ejected"])

            await eventually(ejected)
            assert (await weirgate.endpoint(dead.port))["early_closes"] >= 3
        async with relaying(dead) as weirgate:
            assert await received(weirgate, 20) == {b"a": 10}
            state = await weirgate.endpoint(dead.port)
            assert (state["ejected"], state["early_closes"]) == (0, 0)


async def test_an_endpoint_that_ends_when_the_client_does_has_not_failed() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        tcp_server(silent) as sink,
        relaying(sink, eject={"early_close": "1m"}) as weirgate,
    ):
        for _ in range(20):
            async with connect(weirgate.port("raw")) as wire:
                await wire.send(request())
                wire.half_close()
                await wire.rest()
        await eventually(lambda: len(sink.endings) >= 10)
        assert (await weirgate.endpoint(sink.port))["early_closes"] == 0
