"""Connections that have become too old, of clients and to endpoints: no request is lost."""

import asyncio
import contextlib

import pytest

from tests.support.http2 import GOAWAY, PREFACE, get, http2, settings
from tests.support.http2_client import http2_client
from tests.support.http2_origin import http2_origin, reply
from tests.support.origin import one_origin
from tests.support.weirgate import running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


async def test_a_client_of_http1_is_told_with_an_answer() -> None:
    config = Configuration().gateway(timeouts={"connection_age": "300ms"}).listen("web")
    config.route("all", respond={"status": 200, "body": "x"})
    async with running(config) as weirgate, connect(weirgate.port()) as wire:
        answers = [await wire.exchange(request("/"))]
        async with asyncio.timeout(10):
            while answers[-1].one("connection") != "close":
                answers.append(await wire.exchange(request("/")))
        assert all(answer.status == 200 for answer in answers)
        assert len(answers) > 1
        assert await wire.rest() == b""


async def test_a_client_of_http2_is_told_and_what_is_open_may_end() -> None:
    asked, may_end = asyncio.Event(), asyncio.Event()
    async with one_origin() as origin:

        async def slow(exchange: object) -> None:
            asked.set()
            await may_end.wait()
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")  # type: ignore[attr-defined]

        origin.on("/slow", slow)
        config = Configuration().gateway(timeouts={"connection_age": "500ms"}).listen("web")
        config.route("all", pool="app").pool("app", origin.port)
        async with running(config) as weirgate, http2(weirgate.port()) as client:
            await client.send(get(1, "/slow"))
            await asked.wait()
            await client.until(lambda frame: frame.kind == GOAWAY)
            may_end.set()
            assert (await client.answer(1)).body == b"late"
            assert await client.goaway() == "NO_ERROR"


@pytest.mark.parametrize("bound", ["age", "requests"])
async def test_connections_to_endpoints_are_replaced(bound: str) -> None:
    settings = {"connection_age": "300ms"} if bound == "age" else {"limits": {"requests": 10}}
    async with one_origin() as old, http2_origin() as new:
        new.on("/", reply(200, b"x"))
        config = Configuration().listen("web")
        config.route("new", match={"path": "/"}, pool="new").route("old", pool="old")
        config.pool("old", old.port, **settings)
        config.pool("new", new.port, protocol="h2c", **settings)
        async with running(config) as weirgate, http2_client(weirgate.port()) as client:
            async with asyncio.timeout(20):
                while len(old.connections) < 3 or len(new.connections) < 3:
                    for path in ("/", "/old"):
                        assert (await client.ask(path)).status == 200
            if bound == "requests":
                counts = [len(connection.requests) for connection in old.connections[:-1]]
                assert set(counts) == {10}
            # the last one is too old soon, too
            await eventually(
                lambda: sum(not c.lost.is_set() for c in new.connections) <= 1,
                what="old connections that are closed",
            )
        assert not new.malformed
        assert not old.malformed


async def test_a_client_that_does_not_answer_a_ping_is_given_up() -> None:
    http2 = {"ping_interval": "300ms", "ping_timeout": "300ms"}
    config = Configuration().gateway(http2=http2).listen("web")
    config.route("all", respond={"status": 200})
    async with running(config) as weirgate:
        async with http2_client(weirgate.port()) as client:
            assert (await client.ask("/")).status == 200
            # it answers by itself: it stays
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.lost.wait(), 2)
            assert not client.lost.is_set()
        async with connect(weirgate.port()) as wire:
            # the preface and empty SETTINGS, and from then on not a word
            await wire.send(PREFACE + settings())
            await weirgate.counted("ping_timeout")
