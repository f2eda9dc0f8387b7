"""Answers that an endpoint breaks off are broken for the client, too; odd ones keep it in step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from tests.support import certs
from tests.support.endings import Stream, to_the_end
from tests.support.origin import Behaviour, Exchange, Origin, echoed, message, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

PART = b"x" * 20_000
#: More than the copying of a relay may collect, so that what is left is moved by splice.
LONG_PART = b"x" * 300_000

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(PART), PART)


def end(exchange: Exchange) -> None:
    """FIN, under TLS behind a close_notify."""
    exchange.close()


def reset(exchange: Exchange) -> None:
    exchange.connection.reset()


def cut(exchange: Exchange) -> None:
    """FIN without the close_notify that TLS wants before it."""
    exchange.connection.writer.transport.abort()


@dataclass(frozen=True)
class Way:
    """What an endpoint sends of an answer, and how it ends the connection after that."""

    sent: bytes
    ending: Callable[[Exchange], None]
    pool: str = "plain"


BROKEN = {
    "length, end": Way(LENGTH + PART, end),
    "length, reset": Way(LENGTH + PART, reset),
    "length under TLS, end": Way(LENGTH + PART, end, "tls"),
    "long length, end": Way(LONG + LONG_PART, end),
    "long length, reset": Way(LONG + LONG_PART, reset),
    "no last chunk, end": Way(CHUNKED + CHUNK, end),
    "no last chunk, reset": Way(CHUNKED + CHUNK, reset),
    "no last chunk under TLS, end": Way(CHUNKED + CHUNK, end, "tls"),
    "inside a chunk, end": Way(CHUNKED + CHUNK[:10_000], end),
    "inside the last chunk, end": Way(CHUNKED + CHUNK + b"0\r\n", end),
    "until close, reset": Way(UNTIL_CLOSE + PART, reset),
    "until close under TLS, cut": Way(UNTIL_CLOSE + PART, cut, "tls"),
}
WHOLE = {
    "length": Way(LENGTH + PART * 5, end),
    "chunked": Way(CHUNKED + CHUNK + b"0\r\n\r\n", end),
    "until close": Way(UNTIL_CLOSE + PART, end),
    "until close under TLS": Way(UNTIL_CLOSE + PART, end, "tls"),
}


@dataclass(frozen=True)
class Site:
    origins: dict[str, Origin]
    weirgate: Running

    async def ask(self, way: Way, path: str, listener: str, version: str) -> Stream:
        """Ask once; the endpoint ends the connection when a part of its answer has arrived."""
        arrived = asyncio.Event()
        self.origins[way.pool].on(path, breaking_off(way, arrived))

        def seen(data: bytes) -> None:
            if b"xxx" in data:
                arrived.set()

        return await to_the_end(
            self.weirgate.port(listener),
            request(path, "Connection: close", version=version),
            tls=certs.client_context() if listener == "secure" else None,
            server_name="weirgate.test",
            seen=seen,
        )


def breaking_off(way: Way, arrived: asyncio.Event) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(way.sent)
        await arrived.wait()
        way.ending(exchange)

    return behave


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("certs")
    cert = certs.issue(directory, "weirgate.test")
    config = Configuration().listen("web").listen("secure", tls={"certificates": [cert.yaml()]})
    config.route("tls", match={"path": "/tls/*"}, pool="tls").route("all", pool="plain")
    context = certs.server_context("inner.test")
    async with one_origin() as plain, one_origin(tls=context) as inner:
        authority = str(certs.authority_file(directory))
        config.pool("plain", plain.port)
        config.pool("tls", inner.port, tls={"ca": authority, "server_name": "inner.test"})
        async with running(config) as weirgate:
            yield Site({"plain": plain, "tls": inner}, weirgate)


def path_of(name: str, way: Way, listener: str, version: str) -> str:
    return f"/{way.pool}/{name}/{listener}/{version}".replace(" ", "-").replace(",", "")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("listener", ["web", "secure"])
@pytest.mark.parametrize("name", BROKEN)
async def test_answer_that_is_broken_off_is_broken_for_the_client(
    site: Site, name: str, listener: str, version: str
) -> None:
    way = BROKEN[name]
    path = path_of(name, way, listener, version)
    stream = await site.ask(way, path, listener, version)
    assert stream.data.startswith(b"HTTP/1.1 200"), stream.data[:200]
    assert stream.ending in ({"reset"} if listener == "web" else {"reset", "cut"})
    assert not stream.data.endswith(b"0\r\n\r\n")
    entry = await site.weirgate.access.of(path)
    assert (entry["status"], entry["reason"]) == (200, "upstream_closed_early")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("listener", ["web", "secure"])
@pytest.mark.parametrize("name", WHOLE)
async def test_whole_answer_ends_with_a_close(
    site: Site, name: str, listener: str, version: str
) -> None:
    """The counterpart: what tells the two apart is the ending alone."""
    way = WHOLE[name]
    path = path_of(name, way, listener, version)
    stream = await site.ask(way, path, listener, version)
    assert stream.data.startswith(b"HTTP/1.1 200"), stream.data[:200]
    assert stream.ending == "close"
    assert (await site.weirgate.access.of(path))["reason"] == ""


TAILS = {
    "nothing": b"",
    "the last chunk": b"0\r\n\r\n",
    "a body": b"5\r\nhello\r\n0\r\n\r\n",
    "another answer": message(200, b"forged"),
}


def bodiless(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n" % status


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("status", [204, 304])
async def test_chunked_answer_without_a_body_keeps_the_connection_in_step(
    site: Site, status: int, tail: str, *, later: bool
) -> None:
    arrived, sent = asyncio.Event(), asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        if later:
            await exchange.send(bodiless(status))
            await arrived.wait()
            try:
                await exchange.send(TAILS[tail])
            finally:
                sent.set()
        else:
            await exchange.send(bodiless(status) + TAILS[tail])

    site.origins["plain"].on("/bodiless", behave)
    async with connect(site.weirgate.port()) as wire:
        for number in range(3):
            arrived.clear()
            sent.clear()
            response = await wire.exchange(request("/bodiless"))
            assert (response.status, response.one("etag")) == (status, "x")
            assert status == 304 or response.all("transfer-encoding") == []
            arrived.set()
            if later:
                async with asyncio.timeout(10):
                    await sent.wait()
            assert (
                echoed(await wire.exchange(request(f"/next/{number}"))).target == f"/next/{number}"
            )


@pytest.mark.parametrize("tail", ["the last chunk", "a body", "another answer"])
async def test_body_behind_a_204_is_not_taken_for_the_next_answer(site: Site, tail: str) -> None:
    origin = site.origins["plain"]
    hurried = "/hurried/" + tail.replace(" ", "-")

    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(bodiless(204))
        # the pipelined request is on its way already, on whichever connection
        await eventually(lambda: any(hurried.encode() in c.received for c in origin.connections))
        await exchange.send(TAILS[tail])

    origin.on("/empty", behave)
    async with connect(site.weirgate.port()) as wire:
        await wire.send(request("/empty") + request(hurried))
        assert (await wire.response()).status == 204
        assert echoed(await wire.response()).target == hurried
