"""UDP listeners: sessions by client, limits on them, endpoints that go, answers that end."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.udp import UdpServer, udp_client, udp_clients, udp_server
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Site:
    one: UdpServer
    two: UdpServer
    chatty: UdpServer
    weirgate: Running

    def port(self, listener: str = "voice") -> int:
        return self.weirgate.port(listener)


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration()

    def listen(name: str, pool: str = "voice", **settings: object) -> None:
        config.listen(name, protocol="udp", pool=pool, **settings)

    listen("voice")
    listen("dns", responses=1)
    listen("video", "chatty")
    listen("brief", idle_timeout="300ms")
    listen("few", max_sessions=2)
    listen("per-source", connections_per_source=1)
    listen("guarded", allow=["127.0.0.0/24"], deny=["127.0.0.3"])
    listen("dead", "dead")
    async with udp_server() as one, udp_server() as two, udp_server(answers=5) as chatty:
        config.pool("voice", one.port, two.port, balance="round_robin")
        config.pool("chatty", chatty.port).pool("dead", free_port())
        async with running(config) as weirgate:
            yield Site(one, two, chatty, weirgate)


def _server(answer: bytes) -> int:
    return int(answer.split(b":")[0])


async def test_each_client_has_one_endpoint_and_all_endpoints_have_clients(site: Site) -> None:
    async with udp_clients(10, site.port()) as clients:
        homes: list[int] = []
        for client in clients:
            answers = {_server(await client.ask(b"n%d" % n)) for n in range(5)}
            assert len(answers) == 1
            homes += answers
    assert sorted(homes) == sorted([site.one.port, site.two.port] * 5)


@pytest.mark.parametrize("size", [1, 200, 1472, 9000, 65_000])
async def test_datagrams_keep_their_size(site: Site, size: int) -> None:
    async with udp_client(site.port()) as client:
        answer = await client.ask(b"x" * size)
        assert answer.split(b":", 1)[1] == b"x" * size


async def test_an_empty_datagram_is_one_too(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:  # asyncio does not send it
        client.connect(("127.0.0.1", site.port()))
        client.send(b"")
        client.settimeout(5)
        assert (await asyncio.to_thread(client.recv, 100)).endswith(b":")


async def test_several_answers_and_a_burst(site: Site) -> None:
    async with udp_client(site.port("video")) as client:
        for number in range(40):
            client.send(b"%03d" % number)
        answers = [await client.receive() for _ in range(200)]
    assert sorted(answers) == sorted(
        b"%d:%03d" % (site.chatty.port, number) for number in range(40) for _ in range(5)
    )


async def test_a_counted_answer_ends_the_session_and_its_log_line_tells(site: Site) -> None:
    async with udp_client(site.port("dns")) as client:
        await client.ask(b"question")
        entry = await site.weirgate.access.wait_for(lambda e: e.get("listener") == "dns")
    assert (entry["protocol"], entry["datagrams_in"], entry["datagrams_out"]) == ("udp", 1, 1)
    assert (entry["bytes_in"], entry["moves"], entry["reason"]) == (len(b"question"), 0, "")
    assert entry["bytes_out"] == len(b"question") + len(
        b"%d:" % int(entry["endpoint"].split(":")[1])
    )
    assert entry["closed_by"] == "endpoint"


async def test_an_idle_session_ends(site: Site) -> None:
    async with udp_client(site.port("brief")) as client:
        await client.ask(b"x")
        entry = await site.weirgate.access.wait_for(lambda e: e.get("listener") == "brief")
        assert entry["total_us"] >= 300_000
        assert (entry["closed_by"], entry["reason"]) == ("idle", "")
        await client.ask(b"a new session")


async def test_when_full_the_longest_idle_ends_but_no_active_one(site: Site) -> None:
    refused = await site.weirgate.metric(
        "weirgate_edge_datagrams_dropped_total", listener="few", reason="session_limit"
    )
    assert refused == 0
    async with udp_clients(3, site.port("few")) as (first, second, third):
        await first.ask(b"1")
        await second.ask(b"2")
        with pytest.raises(TimeoutError):
            await third.ask(b"3", 0.3)
        await site.weirgate.counted("session_limit")

        async def replaced() -> bytes:
            await second.ask(b"still here")
            with contextlib.suppress(TimeoutError):
                return await third.ask(b"3", 0.2)
            return b""

        answer = await eventually(replaced, what="room for the third")
        assert answer.endswith(b":3")
        entry = await site.weirgate.access.wait_for(lambda e: e["reason"] == "session_evicted")
        assert (entry["bytes_in"], entry["closed_by"]) == (1, "weirgate")
        await second.ask(b"never ended")


async def test_sources_are_limited_and_judged(site: Site) -> None:
    async with udp_clients(2, site.port("per-source")) as (first, second):
        await first.ask(b"x")
        with pytest.raises(TimeoutError):
            await second.ask(b"x", 0.3)
        await first.ask(b"x")
    await site.weirgate.counted("source_limit")
    async with udp_client(site.port("guarded"), source="127.0.0.3") as denied:
        with pytest.raises(TimeoutError):
            await denied.ask(b"x", 0.3)
    async with udp_client(site.port("guarded"), source="127.0.0.9") as allowed:
        await allowed.ask(b"x")
    await site.weirgate.counted("denied")


async def test_nobody_behind_is_counted(site: Site) -> None:
    async with udp_client(site.port("dead")) as client:
        client.send(b"x")
        await site.weirgate.counted("connect_refused")


async def test_answers_come_from_the_address_that_was_asked() -> None:
    async with udp_server() as server:
        port = free_port()
        config = Configuration().listen("any", protocol="udp", pool="p", bind=f"0.0.0.0:{port}")
        config.pool("p", server.port)
        async with running(config):
            # A connected client drops what comes from elsewhere.
            for host in ("127.0.0.1", "127.8.9.10"):
                async with udp_client(port, host=host) as client:
                    assert await client.ask(b"x") == b"%d:x" % server.port


async def test_flows_of_an_endpoint_that_is_gone_move(site: Site) -> None:
    async with udp_server() as staying, udp_server() as leaving:
        config = Configuration().listen("voice", protocol="udp", pool="p")
        config.pool("p", leaving.port, staying.port, balance="round_robin")
        async with running(config) as weirgate, udp_clients(8, weirgate.port("voice")) as flows:
            for flow in flows:
                await flow.ask(b"hello")
            assert len(leaving.peers) == len(staying.peers) == 4
            leaving.transport.close()
            await eventually(lambda: leaving.transport.is_closing(), what="the end")
            for flow in flows:
                assert _server(await flow.ask_until_answered(b"again")) == staying.port
            # One port of ours to each: the flows kept their sockets.
            assert await weirgate.metric("weirgate_edge_accepted_total", listener="voice") == 8
            await weirgate.stop()
            moved = sum(entry["moves"] for entry in weirgate.access.entries())
            assert moved >= 4


async def test_sessions_survive_a_reload_and_leave_with_their_listener() -> None:
    async with udp_server() as one, udp_server() as two:
        config = Configuration().listen("voice", protocol="udp", pool="p")
        config.listen("other", protocol="udp", pool="p").pool("p", one.port)
        async with running(config) as weirgate, udp_client(weirgate.port("voice")) as client:
            await client.ask(b"x")
            config.pool("p", one.port, two.port)
            assert (await weirgate.reload(config)).json()["result"] == "applied"
            for _ in range(4):
                assert _server(await client.ask(b"x")) == one.port
            assert len(one.peers) == 1, "the same socket as before"
            config.pool("p", two.port)
            await weirgate.reload(config)
            assert _server(await client.ask_until_answered(b"x")) == two.port
            del config.data["listeners"]["voice"]
            await weirgate.reload(config)
            entry = await weirgate.access.wait_for(lambda e: e["reason"] == "config_changed")
            assert entry["listener"] == "voice"


async def test_the_same_address_for_both_transports_and_a_taken_port() -> None:
    async with udp_server() as server:
        config = Configuration().listen("udp", protocol="udp", pool="p")
        config.listen("tcp", protocol="tcp", pool="p")
        config.data["listeners"]["tcp"]["bind"] = config.data["listeners"]["udp"]["bind"]
        config.pool("p", server.port)
        async with running(config) as weirgate, udp_client(weirgate.port("udp")) as client:
            await client.ask(b"x")
            config.listen("taken", protocol="udp", pool="p")
            config.data["listeners"]["taken"]["bind"] = f"127.0.0.1:{server.port}"
            answer = await weirgate.reload(config)
            assert answer.json()["result"] == "refused"
            assert "the port is in use by" in answer.text
            await client.ask(b"still here")


async def test_drain_refuses_new_sessions_and_lets_old_ones_go_on() -> None:
    async with udp_server() as server:
        config = Configuration().listen("voice", protocol="udp", pool="p", idle_timeout="3s")
        config.pool("p", server.port)
        async with (
            running(config) as weirgate,
            udp_clients(1, weirgate.port("voice")) as (old,),
        ):

            async def new_ones_are_refused() -> bool:
                await old.ask(b"still here")
                async with udp_clients(1, weirgate.port("voice")) as (late,):
                    with contextlib.suppress(TimeoutError):
                        await late.ask(b"late", 0.3)
                        return False
                return True

            await old.ask(b"x")
            stopping = asyncio.create_task(weirgate.stop())
            await eventually(lambda: "draining" in weirgate.log(), what="the drain")
            await eventually(new_ones_are_refused)  # once the edge has heard of it
            await old.ask(b"x")
            await stopping
            assert server.received.count(b"x") == 2


async def test_maglev_finds_the_same_endpoint_for_a_client_again() -> None:
    async with udp_server() as one, udp_server() as two, udp_server() as three:
        config = Configuration().listen("voice", protocol="udp", pool="p", idle_timeout="200ms")
        config.pool("p", one.port, two.port, three.port, balance="maglev")
        async with (
            running(config) as weirgate,
            udp_clients(20, weirgate.port("voice")) as clients,
        ):
            before = [_server(await client.ask(b"x")) for client in clients]
            await eventually(
                lambda: len(weirgate.access.entries()) == len(clients), what="the sessions' end"
            )
            assert [_server(await client.ask(b"y")) for client in clients] == before
            assert len(set(before)) == 3
