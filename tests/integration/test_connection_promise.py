"""What an answer's head has said of its connection holds, whatever happens before its last byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.integration.test_drain import command
from tests.integration.test_drain_gateway import process
from tests.support.origin import Exchange, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@asynccontextmanager
async def half_an_answer(
    config: Configuration,
) -> AsyncIterator[tuple[Running, Wire, Callable[[], None]]]:
    """A client that has read the head of an answer which goes on when it is told to."""
    go_on = asyncio.Event()

    async def halves(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(HEAD + b"ha")
        await go_on.wait()
        await exchange.send(b"lf")

    async with one_origin() as origin:
        origin.on("/half", halves)
        config.route("all", pool="all").pool("all", origin.port)
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/half"))
            head = await wire.exactly(len(b"HTTP/1.1 200 OK\r\n"))
            while not head.endswith(b"\r\n\r\n"):
                head += await wire.exactly(1)
            assert b"close" not in head.lower()
            assert await wire.exactly(2) == b"ha"
            yield weirgate, wire, go_on.set


async def drained(weirgate: Running) -> None:
    done = await command(weirgate, "drain", "gateway-0", "--force")
    assert done.code == 0

    async def heard() -> bool:
        return (await process(weirgate, "gateway-0"))["state"] == "draining"

    await eventually(heard)


async def aged(weirgate: Running) -> None:
    """Wait for a younger connection to be told that it is too old."""
    async with connect(weirgate.port()) as younger, asyncio.timeout(10):
        while (await younger.exchange(request("/"))).one("connection") != "close":
            pass


async def listener_removed(weirgate: Running) -> None:
    config = Configuration().listen("other").route("all", respond={"status": 204})
    assert (await weirgate.reload(config)).status_code == 200


@pytest.mark.parametrize(
    ("change", "age"), [(drained, "1h"), (aged, "300ms"), (listener_removed, "1h")]
)
async def test_a_connection_that_was_to_stay_takes_another_request(
    change: Callable[[Running], Awaitable[None]], age: str
) -> None:
    config = Configuration(workers=1).gateway(timeouts={"connection_age": age}).listen("web")
    async with half_an_answer(config) as (weirgate, wire, go_on):
        await change(weirgate)
        go_on()
        assert await wire.exactly(2) == b"lf"
        answer = await wire.exchange(request("/"))
        assert answer.status in {200, 204}
        assert answer.one("connection") == "close"
        assert await wire.rest() == b""
