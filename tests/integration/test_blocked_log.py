"""An access log that nobody reads stops nothing: neither requests, nor a reload, nor the end."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.tcp import tcp_server
from tests.support.weirgate import AccessLog, Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

#: Requests whose lines are together more than the queue of a writer holds (8 MiB).
CLIENTS, REQUESTS_EACH, LINE_BYTES = 8, 200, 14_000
PROMPT_S = 5.0


def stamped(config: Configuration, stamp: int) -> Configuration:
    """Change what every answer says."""
    config.data["routes"] = []
    return config.route("all", respond={"body": str(stamp)})


@contextlib.contextmanager
def unread_fifo(directory: Path) -> Iterator[tuple[str, int | None]]:
    """A FIFO without a reader: already opening it blocks."""
    path = directory / "unread"
    os.mkfifo(path)
    yield str(path), None


@contextlib.contextmanager
def full_fifo(directory: Path) -> Iterator[tuple[str, int | None]]:
    """A FIFO that is open for reading, and full: the first write blocks."""
    path = directory / "full"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        _fill(descriptor)
        yield str(path), None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_stdout(_: Path) -> Iterator[tuple[str, int | None]]:
    """A standard output that is a full pipe."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        _fill(writing)
        os.set_blocking(writing, True)
        yield "stdout", writing
    finally:
        os.close(reading)
        os.close(writing)


def _fill(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.write(descriptor, b"x" * 4096):
            pass
    with contextlib.suppress(BlockingIOError):
        while os.write(descriptor, b"x"):
            pass


@pytest.fixture(params=[unread_fifo, full_fifo, full_stdout], ids=lambda way: way.__name__)
async def blocked(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """A node whose access log takes nothing, with an http and a tcp listener."""
    with request.param(tmp_path) as (to, stdout):
        config = stamped(Configuration().listen("web"), 1)
        config.listen("raw", protocol="tcp", pool="raw").logs(access={"to": to})
        async with tcp_server() as server:
            config.pool("raw", server.port)
            async with running(config, directory=tmp_path, stdout=stdout) as weirgate:
                yield weirgate


async def lost(weirgate: Running) -> bool:
    return await weirgate.metric("weirgate_access_log_lost_total") > 0


async def fill_the_queue(weirgate: Running) -> None:
    """Ask for long paths until lines are lost in every gateway that is used."""
    long = request("/" + "p" * (LINE_BYTES // 2), f"User-Agent: {'u' * (LINE_BYTES // 2)}")

    async def client() -> None:
        async with connect(weirgate.port()) as wire:
            for _ in range(REQUESTS_EACH):
                assert (await wire.exchange(long)).status == 200

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
    await eventually(lambda: lost(weirgate), what="lines that are lost, and counted")


async def echoes(weirgate: Running) -> bool:
    async with connect(weirgate.port("raw")) as wire:
        await wire.send(b"x")
        return await wire.exactly(1) == b"x"


async def apply(weirgate: Running, stamp: int, to: str | None = None) -> None:
    """Reload, in a reasonable time, and see the new configuration at work."""
    config = stamped(weirgate.config, stamp)
    if to is not None:
        config.logs(access={"to": to})
    began = time.monotonic()
    answer = await weirgate.reload(config)
    assert answer.json()["result"] == "applied", answer.text
    assert time.monotonic() - began < PROMPT_S
    assert (await get(weirgate.port())).body == str(stamp).encode()
    assert await echoes(weirgate)


async def test_blocked_log_stops_no_request(blocked: Running) -> None:
    await fill_the_queue(blocked)
    for _ in range(20):
        assert (await get(blocked.port())).body == b"1"
        assert await echoes(blocked)
    assert blocked.gateways()
    assert (await blocked.status())["ready"] is True


async def test_blocked_log_stops_no_reload(blocked: Running, tmp_path: Path) -> None:
    old = blocked.config.data["logs"]["access"]["to"]
    await fill_the_queue(blocked)
    await apply(blocked, 2)
    readable = AccessLog(tmp_path / "readable.log")
    await apply(blocked, 3, to=str(readable.path))
    await get(blocked.port(), "/written")
    await readable.of("/written")
    await apply(blocked, 4, to=old)
    assert [p["restarts"] for p in (await blocked.status())["processes"]] == [0, 0]


async def test_blocked_log_does_not_hold_up_the_end(blocked: Running) -> None:
    await fill_the_queue(blocked)
    began = time.monotonic()
    log = await blocked.stop()
    assert time.monotonic() - began < PROMPT_S
    assert "not drained" not in log
