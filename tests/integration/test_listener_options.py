"""Options of a listener's sockets at a running node, as the kernel tells them (ss)."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.support.processes import finished
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, get, request
from weirgate.shared.testing import Configuration

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("ss") is None, reason="ss (iproute2) is not installed"),
]

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


async def backlog(weirgate: Running) -> int:
    """Read the backlog of the listening socket: its Send-Q."""
    done = await finished("ss", "-Hltn", f"sport = :{weirgate.port()}")
    return int(done.text.split()[2])


async def of_client(weirgate: Running, wire: Wire) -> str:
    """Return all that ss says of the accepted socket of a connection, once the client has
    acknowledged all: until then the one timer that ss names is that of the resending."""
    where = f"( sport = :{weirgate.port()} and dport = :{wire.local_port} )"
    async with asyncio.timeout(10):
        while True:
            shown = (await finished("ss", "-Htnmio", where)).text
            if "unacked:" not in shown and "timer:(on," not in shown:
                return shown


async def test_options_reach_accepted_sockets_and_follow_a_reload() -> None:
    config = Configuration().listen("web", backlog=123, tcp={"keepalive": {"idle": "40s"}})
    config.route("all", respond={"body": "hello"})
    async with running(config) as weirgate, connect(weirgate.port()) as wire:
        assert (await wire.exchange(request())).body == b"hello"
        assert await backlog(weirgate) == 123
        first = await of_client(weirgate, wire)
        timer = re.search(r"timer:\(keepalive,([0-9]+)(?:\.[0-9]+)?sec", first)
        assert timer is not None, first
        assert 30 <= int(timer[1]) <= 40

        web = config.data["listeners"]["web"]
        web["backlog"] = 321
        web["tcp"] = {"keepalive": "off", "congestion": "reno", "receive_buffer": "64KiB"}
        answer = await weirgate.reload(config)
        assert answer.json()["result"] == "applied", answer.text
        assert await backlog(weirgate) == 321
        async with connect(weirgate.port()) as fresh:
            assert (await fresh.exchange(request())).body == b"hello"
            shown = await of_client(weirgate, fresh)
            assert "keepalive" not in shown
            assert re.search(r"\breno\b", shown)
            assert f"rb{2 * 64 * 1024}," in shown
        # it was the same socket all the time: the open connection goes on, with what it had
        assert (await wire.exchange(request())).body == b"hello"
        assert "keepalive" in await of_client(weirgate, wire)


async def test_the_defaults_probe_silent_clients() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    async with running(config) as weirgate, connect(weirgate.port()) as wire:
        assert (await wire.exchange(request())).body == b"hello"
        assert re.search(r"timer:\(keepalive,[0-9]min", await of_client(weirgate, wire))
        assert await backlog(weirgate) == 4096


async def test_a_congestion_control_that_is_not_there_refuses_the_reload() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    async with running(config) as weirgate:
        config.listen("new", tcp={"congestion": "no_such"})
        config.data["listeners"]["web"]["backlog"] = 99
        answer = await weirgate.reload(config)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error.startswith('new: congestion: "no_such" is not available here (available: ')
        assert AVAILABLE[0] in error
        # nothing of it has changed
        assert await backlog(weirgate) == 4096
        del config.data["listeners"]["new"]
        config.data["listeners"]["web"]["tcp"] = {"congestion": "no_such"}
        answer = await weirgate.reload(config)
        assert answer.status_code == 422
        assert await backlog(weirgate) == 4096
        assert (await get(weirgate.port())).body == b"hello"


async def test_a_deferred_accept_waits_for_the_client_s_first_bytes() -> None:
    config = Configuration().listen("web", tcp={"defer_accept": "10s"})
    async with running(config.route("all", respond={"body": "hello"})) as weirgate:
        # it became ready although its own first connection sent nothing
        accepted = await weirgate.metric("weirgate_edge_accepted_total")
        async with connect(weirgate.port()) as silent, connect(weirgate.port()) as wire:
            assert (await wire.exchange(request())).body == b"hello"
            assert await weirgate.metric("weirgate_edge_accepted_total") == accepted + 1
            assert (await silent.exchange(request())).body == b"hello"
            assert await weirgate.metric("weirgate_edge_accepted_total") == accepted + 2
