"""A node whose listening sockets another container holds: killed under load, nobody is refused."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.test_attach import said_to_another_user
from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.processes import end
from tests.support.weirgate import running, start
from tests.support.wire import connect, request
from weirgate.shared.hold.store import VARIABLE, HolderStore, from_holder
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]


@pytest.fixture
async def holder() -> AsyncIterator[Path]:
    """Where a holder listens."""
    with tempfile.TemporaryDirectory(prefix="weirgate-hold-") as directory:
        path = Path(directory) / "store.sock"
        place = Path(directory) / "holder"
        place.mkdir()
        process = await start("hold", path, directory=place)
        await eventually(path.exists)
        yield path
        assert await end(process, signal.SIGTERM, within_s=5) == 0
        assert not path.exists()


def names(path: Path) -> list[str]:
    given = from_holder({VARIABLE: str(path)})
    for passed in given.sockets:
        passed.socket.close()
    return sorted(passed.name for passed in given.sockets)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_node_started_again_refuses_nobody(holder: Path, how: signal.Signals) -> None:
    """With an attached gateway, established connections live on, too."""
    attach = holder.parent / "attach.sock"
    host_place = holder.parent / "host"
    host_place.mkdir()
    config = Configuration().listen("web")
    config.data["gateway"] = {"attach": {"socket": str(attach)}, "cookie_secret": "ab" * 32}
    environ = {VARIABLE: str(holder)}
    host = await start("attach", attach, "--health", "off", directory=host_place)
    try:
        async with one_origin() as origin, contextlib.AsyncExitStack() as stack:
            config.pool("all", origin.port).route("all", pool="all")
            first = await stack.enter_async_context(
                running(config, env=environ, directory=holder.parent)
            )
            kept = await stack.enter_async_context(connect(first.port()))
            assert (await kept.exchange(request("/"))).status == 200
            async with load(first.port(), connections=4, requests_per_connection=1) as clients:
                await eventually(lambda: clients.ok > 20)
                os.kill(first.pid, how)
                await asyncio.wait_for(first.process.wait(), 20)
                # nobody accepts now; the kernel lets clients wait
                assert (await kept.exchange(request("/"))).status == 200
                await stack.enter_async_context(
                    running(config, env=environ, directory=holder.parent)
                )
                later = clients.ok + 50
                await eventually(lambda: clients.ok > later)
            assert clients.kinds() == {}
    finally:
        await end(host, signal.SIGTERM, within_s=15)


async def test_a_listener_that_is_gone_is_let_go(holder: Path) -> None:
    config = Configuration().listen("web").listen("more")
    config.route("all", respond={"body": "x"})
    environ = {VARIABLE: str(holder)}
    async with running(config, env=environ) as weirgate:
        assert names(holder) == [
            "weirgate-stored-more-0",
            "weirgate-stored-web-0",
        ]
        del config.data["listeners"]["more"]
        assert (await weirgate.reload(config)).json()["result"] == "applied"
        await eventually(lambda: names(holder) == ["weirgate-stored-web-0"])


async def test_without_its_holder_a_node_serves_and_says_so(tmp_path: Path) -> None:
    config = Configuration().listen("web").route("all", respond={"body": "x"})
    async with running(config, env={VARIABLE: str(tmp_path / "nobody.sock")}) as weirgate:
        async with connect(weirgate.port()) as wire:
            assert (await wire.exchange(request("/"))).status == 200
        assert "nobody holds sockets" in weirgate.log()
        assert "no copy of a socket is kept" in weirgate.log()


async def test_what_a_holder_refuses(holder: Path) -> None:
    config = Configuration().listen("web").route("all", respond={"body": "x"})
    store = HolderStore(holder)
    async with running(config) as weirgate, connect(weirgate.port()) as wire:
        sock = wire.writer.get_extra_info("socket")
        assert not store.keep("n" * 300, sock)
        assert names(holder) == []
        assert store.keep("name", sock)
        assert store.keep("name", sock)
        assert names(holder) == ["name"]
        store.forget("name")
        assert names(holder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_is_refused(holder: Path) -> None:
    assert b"refused" in await said_to_another_user(holder, b'{"give":""}')
