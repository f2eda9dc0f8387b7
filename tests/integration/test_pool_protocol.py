"""A pool that changes its protocol, or lets its endpoints choose, within a limit of connections."""

import asyncio
from pathlib import Path

import pytest

from tests.support import certs, http2_servers
from tests.support.http2_client import http2_client
from tests.support.weirgate import running
from tests.support.wire import get
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

ONE = {"connections": 1}


async def test_a_reload_changes_the_protocol_of_kept_connections(tmp_path: Path) -> None:
    async with http2_servers.hypercorn(tmp_path) as server:

        def config(protocol: str) -> Configuration:
            made = Configuration().listen("web", bind=f"127.0.0.1:{port}").route("all", pool="app")
            made.data["admin"] = first.data["admin"]
            return made.pool("app", server.port, protocol=protocol, limits=ONE)

        first = Configuration().listen("web").route("all", pool="app")
        first.pool("app", server.port, protocol="http1", limits=ONE)
        port = first.port("web")
        async with running(first) as weirgate:
            assert (await get(port, "/hello")).status == 200
            for protocol in ("h2c", "http1", "h2c"):
                answer = await weirgate.reload(config(protocol))
                assert answer.status_code == 200, answer.text
                # the connection that was kept holds the only place
                async with asyncio.timeout(10):
                    assert (await get(port, "/hello")).status == 200


async def test_many_requests_share_the_only_connection(tmp_path: Path) -> None:
    async with http2_servers.hypercorn(tmp_path) as server:
        config = Configuration().listen("web").route("all", pool="app")
        config.pool("app", server.port, protocol="h2c", limits=ONE)
        async with running(config) as weirgate, http2_client(weirgate.port()) as client:
            async with asyncio.timeout(30):
                found = await asyncio.gather(*[client.ask("/hello") for _ in range(90)])
            assert {answer.status for answer in found} == {200}
            assert await weirgate.metric("weirgate_upstream_connections_opened_total") == 1


async def test_an_endpoint_that_may_choose_and_a_websocket_that_is_refused(tmp_path: Path) -> None:
    """A WebSocket goes over HTTP/1.1 there, whose connection then holds the only place."""
    files = certs.issue(tmp_path, "weirgate.test")
    async with http2_servers.hypercorn(tmp_path, files) as server:
        tls = {"ca": str(certs.authority_file(tmp_path)), "server_name": "weirgate.test"}
        config = Configuration().listen("web").route("all", pool="app")
        config.pool("app", server.port, protocol="auto", tls=tls, limits=ONE)
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        async with running(config) as weirgate, asyncio.timeout(30):
            for _ in range(3):
                refused = await get(weirgate.port(), "/refused", *upgrade, key)
                assert refused.status == 403
                assert (await get(weirgate.port(), "/hello")).status == 200
