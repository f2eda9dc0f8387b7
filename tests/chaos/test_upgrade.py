"""``weirgate upgrade edge`` under load: who notices, and what if the fresh process fails."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import certs
from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.processes import descriptors, finished
from tests.support.strict import TruncatedError
from tests.support.tcp import TcpServer, echo, tcp_server
from tests.support.udp import UdpServer, udp_client, udp_clients, udp_server
from tests.support.weirgate import COMMAND, Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

LONG = "60s"
LIMIT = 40
NAME = "weirgate.test"
#: Breaks every Python process that finds it, as a bad installation would, while the file is there.
SITE_CUSTOMIZE = """
import os, sys, time
line = " ".join(sys.orig_argv)
if "weirgate.edge.process" in line and os.path.exists(os.environ["BROKEN"]):
    how = open(os.environ["BROKEN"]).read()
    os.write(2, b"broken on purpose\\n")
    os._exit(7) if how == "exit" else time.sleep(600)
"""


@dataclass
class Site:
    weirgate: Running
    server: TcpServer
    udp: UdpServer
    broken: Path

    async def upgrade(self, deadline: str = LONG, **query: str) -> dict[str, Any]:
        answer = await self.call(deadline, **query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def call(self, deadline: str = LONG, **query: str) -> httpx.Response:
        milliseconds = str(int(float(deadline.rstrip("s")) * 1000))
        return await self.weirgate.admin.post(
            "/upgrade",
            params={"target": "edge", "deadline_ms": milliseconds} | query,
            timeout=60,
        )

    async def processes(self) -> dict[str, Mapping[str, Any]]:
        return {p["name"]: p for p in (await self.weirgate.status())["processes"]}

    async def alone(self, within_s: float = 15.0) -> int:
        """Wait until one edge process is left; return its id."""
        await eventually(lambda: len(self.weirgate.edges()) == 1, within_s=within_s)

        async def forgotten() -> bool:
            return "edge-0-old" not in await self.processes()

        await eventually(forgotten)
        return self.weirgate.edges()[0]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    broken = tmp_path / "broken"
    config = Configuration(workers=2).listen("web").listen("limited", max_connections=LIMIT)
    # far from its limit: places come back up to 100 ms late
    config.listen("tracked", max_connections=10_000)
    sealed = {"certificates": [certs.issue(tmp_path, NAME).yaml()]}
    config.listen("sealed", protocol="tls", terminate="*", tls=sealed, max_connections=LIMIT)
    config.listen("stream", protocol="tcp", pool="stream")
    config.listen("voice", protocol="udp", pool="voice")
    async with one_origin() as origin, tcp_server(echo) as server, udp_server() as udp:
        config.pool("all", origin.port).route("all", pool="all")
        config.pool("stream", server.port).pool("voice", udp.port)
        env = {"PYTHONPATH": str(tmp_path), "BROKEN": str(broken)}
        async with running(config, env=env) as instance:
            yield Site(instance, server, udp, broken)


async def test_no_http_client_notices_several_upgrades(site: Site) -> None:
    port = site.weirgate.port()
    async with (
        load(port, connections=12) as kept,
        load(port, connections=8, requests_per_connection=1) as fresh,
        load(site.weirgate.port("tracked"), connections=4, requests_per_connection=3) as limited,
    ):
        pids = [site.weirgate.edges()[0]]
        for _ in range(4):
            mark = (kept.ok + 200, fresh.ok + 50, limited.ok + 20)
            await eventually(
                lambda: kept.ok > mark[0] and fresh.ok > mark[1] and limited.ok > mark[2]  # noqa: B023
            )
            answer = await site.upgrade()
            (process,) = answer["processes"]
            assert (process["name"], process["old_pid"]) == ("edge-0", pids[-1])
            pids.append(process["pid"])
            assert await site.alone() == pids[-1]
        mark = (kept.ok + 200, fresh.ok + 50, limited.ok + 20)
        await eventually(lambda: kept.ok > mark[0] and fresh.ok > mark[1] and limited.ok > mark[2])
    assert (kept.failures, fresh.failures, limited.failures) == ([], [], [])
    assert len(set(pids)) == 5
    assert kept.opened == 12, "kept connections were never broken"
    assert (await site.processes())["edge-0"]["restarts"] == 0


async def test_counters_never_fall_and_the_last_ones_of_an_old_process_are_kept(
    site: Site,
) -> None:
    async def accepted() -> float:
        return await site.weirgate.metric("weirgate_edge_accepted_total", listener="web")

    async def streams() -> float:
        return await site.weirgate.metric("weirgate_edge_accepted_total", listener="stream")

    made = 0
    for _ in range(3):
        before = await accepted()
        for _ in range(5):
            async with connect(site.weirgate.port()) as wire:
                assert (await wire.exchange(request())).status == 200
        # nobody has asked for metrics since: what the old process counted is still in it alone
        reader, writer = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        made += 1
        await site.upgrade()
        assert await accepted() == before + 5
        assert await streams() >= made
        writer.close()
        await writer.wait_closed()
        await site.alone()
        assert await accepted() == before + 5
        assert await streams() >= made
    bytes_in = await site.weirgate.metric("weirgate_edge_bytes_in_total", listener="stream")
    assert bytes_in == made, "streams that ended in the old process are counted, too"


async def test_a_proxied_stream_stays_with_the_old_process_until_it_ends(site: Site) -> None:
    (old,) = site.weirgate.edges()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
    sent = 0

    async def exchange(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            piece = b"%08d" % sent * 1024
            sent += 1
            writer.write(piece)
            assert await reader.readexactly(len(piece)) == piece

    await exchange(50)
    pump = asyncio.create_task(exchange(400))
    await site.upgrade()
    await pump
    processes = await site.processes()
    assert processes["edge-0-old"]["pid"] == old
    assert processes["edge-0-old"]["state"] == "draining"
    assert processes["edge-0-old"]["connections"] == 1
    assert processes["edge-0"]["state"] == "ready"
    assert sorted([old, processes["edge-0"]["pid"]]) == site.weirgate.edges()

    refused = await site.call()
    assert refused.status_code == 409
    assert f"edge-0-old (pid {old}) still finishes its streams" in refused.json()["error"]

    again, other = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
    other.write(b"new")
    assert await again.readexactly(3) == b"new"
    other.close()
    await exchange(100)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert await site.alone() != old
    assert site.server.endings.count("reset") == 0
    await site.upgrade()


async def test_the_deadline_ends_what_is_left_and_says_why(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    began = time.monotonic()
    await site.upgrade("1s")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    assert 0.9 < time.monotonic() - began < 10
    writer.close()
    entry = await site.weirgate.access.wait_for(lambda entry: entry.get("bytes_in") == 5)
    assert (entry["listener"], entry["reason"], entry["bytes_out"]) == ("stream", "draining", 5)
    await site.alone()


async def test_udp_sessions_go_over_with_their_sockets(site: Site) -> None:
    async with udp_clients(50, site.weirgate.port("voice")) as clients:
        for number, client in enumerate(clients):
            assert (await client.ask(b"%d" % number)).endswith(b":%d" % number)
        peers = set(site.udp.peers)
        assert len(peers) == 50
        for turn in range(3):
            await site.upgrade()
            for number, client in enumerate(clients):
                assert (await client.ask(b"%d-%d" % (turn, number))).endswith(
                    b":%d-%d" % (turn, number)
                )
            await site.alone()
        assert site.udp.peers == peers, "the endpoint sees the same ports"
        status = await site.weirgate.status()
        (voice,) = [entry for entry in status["listeners"] if entry["name"] == "voice"]
        assert voice["connections"] == 50
    assert not [e for e in site.weirgate.access.entries() if e.get("listener") == "voice"]


async def test_no_datagram_is_lost_or_answered_twice(site: Site) -> None:
    """Each client asks again as soon as it has its answer; what the kernel queues is served."""
    asked = 0
    going = True

    async def ask(number: int) -> None:
        nonlocal asked
        async with udp_client(site.weirgate.port("voice")) as client:
            turn = 0
            while going:
                answer = await client.ask(b"%d-%d" % (number, turn))
                assert answer.partition(b":")[2] == b"%d-%d" % (number, turn)
                turn += 1
                asked += 1
            assert client.inbox.empty()

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(ask(number))
        for _ in range(3):
            mark = asked + 200
            await eventually(lambda: asked > mark)  # noqa: B023
            await site.upgrade()
            await site.alone()
        mark = asked + 200
        await eventually(lambda: asked > mark)
        going = False
    assert len(site.udp.peers) == 8


@pytest.mark.parametrize("listener", ["limited", "sealed"])
async def test_places_of_connections_that_were_handed_over_go_over(
    site: Site, listener: str
) -> None:
    """Those of a tls listener are held by another thread than those of http."""
    tls = certs.client_context() if listener == "sealed" else None

    def client() -> contextlib.AbstractAsyncContextManager[Wire]:
        port = site.weirgate.port(listener)
        return connect(port, tls=tls, server_name=NAME if tls else None)

    async def held() -> int:
        status = await site.weirgate.status()
        (entry,) = [entry for entry in status["listeners"] if entry["name"] == listener]
        return int(entry["connections"])

    async def one_more() -> None:
        async with client() as wire:
            await wire.exchange(request())

    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(client()) for _ in range(LIMIT)]
        for wire in wires:
            assert (await wire.exchange(request())).status == 200
        assert await held() == LIMIT
        for _ in range(2):
            await site.upgrade()
            await site.alone()
            assert await held() == LIMIT
        with pytest.raises((OSError, TruncatedError)):  # a reset, or nothing
            await one_more()
        for wire in wires:
            assert (await wire.exchange(request())).status == 200

    async def none() -> bool:
        return await held() == 0

    await eventually(none, what="every place back")


async def test_a_fresh_process_that_fails_changes_nothing(site: Site) -> None:
    (old,) = site.weirgate.edges()
    async with (
        load(site.weirgate.port(), connections=4, requests_per_connection=1) as fresh,
        udp_client(site.weirgate.port("voice")) as client,
    ):
        await client.ask(b"before")
        site.broken.write_text("exit")
        answer = await site.call()
        assert answer.status_code == 500
        document = answer.json()
        assert document["result"] == "failed"
        assert "does not get ready: exit status 7; the old one serves on" in document["error"]
        assert await site.alone() == old
        mark = fresh.ok + 50
        await eventually(lambda: fresh.ok > mark)
        await client.ask(b"after")
        site.broken.unlink()
        await site.upgrade()
        assert await site.alone() != old
        await client.ask(b"upgraded")
    assert fresh.failures == []
    assert len(site.udp.peers) == 1
    assert "the edge is not upgraded" in site.weirgate.log()


async def test_a_fresh_process_that_is_killed_leaves_the_old_one_serving(site: Site) -> None:
    """It dies while it starts, before it could take anything over."""
    (old,) = site.weirgate.edges()
    site.broken.write_text("hang")
    async with load(site.weirgate.port(), connections=4, requests_per_connection=1) as fresh:
        upgrading = asyncio.create_task(site.call())
        await eventually(lambda: len(site.weirgate.edges()) == 2)
        busy = await site.call()
        assert busy.status_code == 409
        assert "an upgrade is under way" in busy.json()["error"]
        (new,) = set(site.weirgate.edges()) - {old}
        os.kill(new, signal.SIGKILL)
        answer = await upgrading
        assert (answer.status_code, "signal SIGKILL" in answer.json()["error"]) == (500, True)
        assert await site.alone() == old
    assert fresh.failures == []


async def test_upgrades_leak_neither_descriptors_nor_processes(site: Site) -> None:
    async def turn() -> None:
        await site.upgrade()
        await site.alone()
        async with connect(site.weirgate.port()) as wire:
            assert (await wire.exchange(request())).status == 200

    async def used() -> tuple[int, int]:
        return len(descriptors(site.weirgate.pid)), len(descriptors(site.weirgate.edges()[0]))

    await turn()
    await turn()
    before = await used()
    for _ in range(4):
        await turn()

    async def as_before() -> bool:
        now = await used()
        return now[0] <= before[0] + 1 and now[1] <= before[1] + 1

    await eventually(as_before, explain=lambda: str(before))
    log = site.weirgate.log()
    assert "an internal task failed" not in log
    assert "Traceback" not in log


async def test_the_verb_says_what_it_did_and_why_not(site: Site) -> None:
    admin = f"http://127.0.0.1:{site.weirgate.config.admin_port}"
    (old,) = site.weirgate.edges()

    def verb(*arguments: str) -> Any:
        return finished(*COMMAND, "upgrade", *arguments, "--admin", admin)

    done = await verb("edge", "--wait", "--deadline", "10s")
    assert done.code == 0, done.text
    (new,) = site.weirgate.edges()
    assert done.out.decode() == f"edge-0: upgraded, pid {old} → {new}\n"
    done = await verb("edge", "--json", "--wait")
    assert (done.code, json.loads(done.out)["result"]) == (0, "upgraded")
    site.broken.write_text("exit")
    failed = await verb("edge")
    assert failed.code == 1
    assert "does not get ready: exit status 7" in failed.text
    site.broken.unlink()
    assert (await verb("edge", "--deadline", "soon")).code == 2
    gateway = await verb("gateway-1", "--wait")
    assert (gateway.code, gateway.out.decode().splitlines()[-1]) == (0, "gateway-1: replaced")
    assert (await verb("gateway-9")).code == 2


async def test_a_reload_meanwhile_is_right_and_reaches_the_fresh_process(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
    writer.write(b"x")
    await reader.readexactly(1)
    await site.upgrade()
    site.weirgate.config.listen("late")
    answer = await site.weirgate.reload(site.weirgate.config)
    assert answer.json()["result"] == "applied"
    async with connect(site.weirgate.port("late")) as wire:
        assert (await wire.exchange(request())).status == 200
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y", "the old stream goes on"
    writer.close()
    await site.alone()


async def test_the_node_s_own_drain_takes_the_old_process_along(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.weirgate.port("stream"))
    writer.write(b"x")
    await reader.readexactly(1)
    await site.upgrade()
    assert len(site.weirgate.edges()) == 2
    began = time.monotonic()
    log = await site.weirgate.stop()
    assert time.monotonic() - began < 15
    assert "Traceback" not in log
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
