"""Sources shunned for a while: refused on every listener, and served again afterwards."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.support.processes import Finished, finished
from tests.support.tcp import tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.weirgate import COMMAND, Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

BAD, GOOD = "127.0.0.7", "127.0.0.8"


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[Running]:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    config.listen("tcp", protocol="tcp", pool="echo")
    config.listen("voice", protocol="udp", pool="voice")
    async with tcp_server() as stream, udp_server() as datagrams:
        config.pool("echo", stream.port).pool("voice", datagrams.port)
        async with running(config) as weirgate:
            yield weirgate


@pytest.fixture
async def weirgate(node: Running) -> AsyncIterator[Running]:
    """A node that shuns nobody, before the test and after it."""
    yield node
    for shun in (await node.admin.get("/shun")).json()["shuns"]:
        await node.admin.delete("/shun", params={"source": shun["source"]})


async def shun(weirgate: Running, *arguments: str) -> Finished:
    """Run a verb against the running node."""
    admin = f"http://127.0.0.1:{weirgate.config.admin_port}"
    return await finished(*COMMAND, "shun", *arguments, "--admin", admin)


async def answer(weirgate: Running, listener: str, source: str) -> bytes:
    """Say what a new client from this source gets; nothing where it is refused."""
    try:
        if listener == "voice":
            async with udp_client(weirgate.port(listener), source=source) as client:
                return (await client.ask(b"x", 0.3)).partition(b":")[2]
        async with connect(weirgate.port(listener), local=source) as wire:
            if listener == "web":
                return (await wire.exchange(request("/"))).body
            await wire.send(b"x")
            return await wire.exactly(1)
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    except TimeoutError:
        assert listener == "voice", "refused by silence"
        return b""


async def served(weirgate: Running, source: str) -> dict[str, bytes]:
    return {name: await answer(weirgate, name, source) for name in ("web", "tcp", "voice")}


EVERYWHERE = {"web": b"hello", "tcp": b"x", "voice": b"x"}
NOWHERE = {"web": b"", "tcp": b"", "voice": b""}


async def refused(weirgate: Running, listener: str) -> float:
    family = "datagrams_dropped" if listener == "voice" else "refused"
    return await weirgate.metric(
        f"weirgate_edge_{family}_total", listener=listener, reason="shunned"
    )


async def test_a_shunned_source_is_refused_on_every_listener_until_it_is_taken_back(
    weirgate: Running,
) -> None:
    assert await served(weirgate, BAD) == EVERYWHERE
    before = {name: await refused(weirgate, name) for name in EVERYWHERE}
    done = await shun(weirgate, "add", f"{BAD}/32", "--reason", "too loud", "--ttl", "2h")
    assert (done.code, done.text) == (0, f"{BAD}/32: shunned for 2h\n")
    assert await served(weirgate, BAD) == NOWHERE
    assert await served(weirgate, GOOD) == EVERYWHERE
    for name, count in before.items():
        assert await refused(weirgate, name) == count + 1

    listed = await shun(weirgate, "list")
    assert listed.code == 0
    head, row = listed.text.splitlines()
    assert head.split() == ["source", "left", "by", "reason"]
    assert row.split()[:2] in ([f"{BAD}/32", left] for left in ("2:00:00", "1:59:59", "1:59:58"))
    assert "@" in row
    assert row.endswith("  too loud")
    (entry,) = json.loads((await shun(weirgate, "list", "--json")).out)["shuns"]
    assert (entry["source"], entry["reason"]) == (f"{BAD}/32", "too loud")
    assert 7000 < entry["seconds_left"] <= 7200
    assert entry["until"] - entry["since"] == pytest.approx(7200)

    done = await shun(weirgate, "del", BAD)
    assert (done.code, done.text) == (0, f"{BAD}/32: no longer shunned\n")
    assert await served(weirgate, BAD) == EVERYWHERE
    again = await shun(weirgate, "del", BAD)
    assert (again.code, again.text) == (0, f"{BAD}/32: was not shunned\n")
    assert "too loud" not in (await shun(weirgate, "list")).text
    assert "shunned by an operator" in weirgate.log()


async def test_a_connection_that_is_open_goes_on(weirgate: Running) -> None:
    async with connect(weirgate.port("tcp"), local=BAD) as wire:
        await wire.send(b"a")
        assert await wire.exactly(1) == b"a"
        assert (await weirgate.admin.post("/shun", params={"source": BAD})).status_code == 200
        await wire.send(b"b")
        assert await wire.exactly(1) == b"b"
        assert await answer(weirgate, "tcp", BAD) == b""


async def test_it_ends_by_itself(weirgate: Running) -> None:
    done = await shun(weirgate, "add", BAD, "--ttl", "1s", "--json")
    told = json.loads(done.out)
    assert (told["result"], told["source"], told["in_force"]) == ("shunned", f"{BAD}/32", True)

    async def back() -> bool:
        return await answer(weirgate, "tcp", BAD) == b"x"

    await eventually(back)
    assert await served(weirgate, BAD) == EVERYWHERE
    assert (await weirgate.admin.get("/shun")).json() == {"shuns": []}


async def test_a_prefix_survives_reloads_and_the_end_of_the_edge(weirgate: Running) -> None:
    done = await shun(weirgate, "add", "127.0.0.4/30")
    assert done.text == "127.0.0.4/30: shunned for 10m\n"
    assert await served(weirgate, BAD) == NOWHERE
    weirgate.config.route("more", respond={"body": "x"})
    assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
    assert await served(weirgate, BAD) == NOWHERE
    (edge,) = weirgate.edges()
    os.kill(edge, signal.SIGKILL)
    await weirgate.replaced("edge-0", edge)

    async def known() -> bool:
        return await answer(weirgate, "tcp", BAD) == b""

    await eventually(known, what="the fresh edge knows whom to shun")
    assert await served(weirgate, BAD) == NOWHERE
    assert await served(weirgate, GOOD) == EVERYWHERE


async def test_whoever_waits_while_the_edge_is_dead_is_refused_by_its_successor(
    weirgate: Running,
) -> None:
    """The first connections that a fresh edge accepts are those of the kernel's queue."""

    async def wait_in_the_queue() -> bytes:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with connect(weirgate.port("tcp"), local=BAD) as wire:
                waiting.append(wire)
                await wire.send(b"x")
                return await wire.exactly(1)
        return b""

    waiting: list[object] = []
    assert (await weirgate.admin.post("/shun", params={"source": BAD})).status_code == 200
    assert await answer(weirgate, "tcp", BAD) == b""
    (edge,) = weirgate.edges()
    os.kill(edge, signal.SIGSTOP)
    clients = [asyncio.create_task(wait_in_the_queue()) for _ in range(100)]
    await eventually(lambda: len(waiting) == len(clients), what="all are in the queue")
    os.kill(edge, signal.SIGKILL)
    assert await asyncio.gather(*clients) == [b""] * len(clients)


async def test_everybody_only_with_force_and_hosts_bits_are_masked(weirgate: Running) -> None:
    for source in ("0.0.0.0/0", "127.0.0.1/8"):
        done = await shun(weirgate, "add", source)
        assert done.code == 1
        assert "--force does it" in done.text
    assert await served(weirgate, BAD) == EVERYWHERE
    done = await shun(weirgate, "add", "127.0.0.1/8", "--force")
    assert (done.code, done.text) == (0, "127.0.0.0/8: shunned for 10m\n")
    assert await served(weirgate, BAD) == NOWHERE
