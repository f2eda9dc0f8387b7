"""Servers that people really run as endpoints; one that is not installed skips by name."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.weirgate import running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

APPLICATIONS: dict[str, Callable[[Path], AbstractAsyncContextManager[peers.Peer]]] = {
    "uvicorn": peers.uvicorn,
    "gunicorn": peers.gunicorn,
    "node": peers.node,
}


@pytest.fixture(params=sorted(APPLICATIONS))
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    """A Weirgate in front of one of the applications."""
    async with APPLICATIONS[request.param](tmp_path) as peer:
        config = Configuration().listen("web").pool("all", peer.port).route("all", pool="all")
        async with running(config) as weirgate:
            yield weirgate.port()


async def test_application_server(port: int) -> None:
    head = request("/chunks", "Transfer-Encoding: chunked", method="POST")
    async with connect(port) as wire:
        for _ in range(20):
            assert (await wire.exchange(request("/a"))).body == b"GET /a 0"
        posted = await wire.exchange(request("/b", method="POST", body=b"x" * 300_000))
        assert posted.body == b"POST /b 300000"
        chunky = await wire.exchange(head + b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n")
        assert chunky.body == b"POST /chunks 8"
        assert (await wire.exchange(request("/c", method="HEAD"), "HEAD")).status == 200


async def test_application_server_under_load(port: int) -> None:
    async with load(port, "/load", connections=8) as running_load:
        await eventually(lambda: running_load.ok >= 300, within_s=30)
    assert running_load.failures == [], running_load.kinds()


async def test_nginx_serves_files(tmp_path: Path) -> None:
    body = hashlib.shake_128(b"file").digest(1 << 20) * 10
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "big").write_bytes(body)
    (tmp_path / "files" / "text").write_text("hello " * 1000)
    async with peers.nginx(tmp_path) as peer:
        config = Configuration().listen("web").pool("all", peer.port).route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            big = await wire.exchange(request("/files/big"))
            assert hashlib.sha256(big.body).digest() == hashlib.sha256(body).digest()
            part = await wire.exchange(request("/files/big", "Range: bytes=100-199"))
            assert (part.status, part.body) == (206, body[100:200])
            tag = big.one("etag")
            same = await wire.exchange(request("/files/big", f"If-None-Match: {tag}"))
            assert same.status == 304
            packed = await wire.exchange(request("/gzip/text", "Accept-Encoding: gzip"))
            assert packed.one("content-encoding") == "gzip"
            assert packed.body.startswith(b"\x1f\x8b")
            assert (await wire.exchange(request("/files/none"))).status == 404


async def test_haproxy_behind(tmp_path: Path) -> None:
    async with one_origin() as origin, peers.haproxy(tmp_path, origin.port) as peer:
        config = Configuration().listen("web").pool("all", peer.port).route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            seen = json.loads((await wire.exchange(request("/a", body=b"12345"))).body)
            assert (seen["target"], seen["length"]) == ("/a", 5)
