"""What counts as one source: a listener's and a filter's own prefix lengths."""

import contextlib
from collections import Counter

import pytest

from tests.support.tcp import tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.weirgate import running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

NETWORK = {"ipv4": 24}
ONE, ALIKE, OTHER = "127.0.7.1", "127.0.7.2", "127.0.8.1"


async def _answered(port: int, source: str) -> bool:
    with contextlib.suppress(ConnectionError):
        async with connect(port, local=source) as wire:
            await wire.send(b"x")
            return await wire.reader.read(1) == b"x"
    return False


async def test_open_connections_of_a_network() -> None:
    async with tcp_server() as server:
        config = Configuration().pool("p", server.port)
        config.listen(
            "tcp", protocol="tcp", pool="p", connections_per_source=1, source_prefix=NETWORK
        )
        async with running(config) as weirgate:
            port = weirgate.port("tcp")
            async with connect(port, local=ONE) as wire:
                await wire.send(b"x")
                assert await wire.exactly(1) == b"x"
                assert not await _answered(port, ALIKE)
                assert await _answered(port, OTHER)
                await weirgate.counted("source_limit")
            await eventually(lambda: _answered(port, ALIKE), what="the place to come back")


async def test_new_connections_of_a_network() -> None:
    config = Configuration().route("all", respond={"body": "hello"})
    config.listen("web", new_connections_per_source="3/h", source_prefix=NETWORK)
    async with running(config) as weirgate:
        served = Counter[str]()
        for source in [ONE, ALIKE, ONE, ALIKE, OTHER, ALIKE, ONE]:
            with contextlib.suppress(ConnectionError, AssertionError):
                async with connect(weirgate.port(), local=source) as wire:
                    served[source] += (await wire.exchange(request())).status == 200
        # 3/h is a burst of one
        assert served == {ONE: 1, OTHER: 1}


async def test_sessions_and_datagrams_of_a_network() -> None:
    async with udp_server() as server:
        config = Configuration().pool("p", server.port)
        config.listen(
            "udp", protocol="udp", pool="p", connections_per_source=1, source_prefix=NETWORK
        )
        config.listen(
            "rate", protocol="udp", pool="p", datagrams_per_source="1/h", source_prefix=NETWORK
        )
        async with running(config) as weirgate:
            for listener, reason in [("udp", "source_limit"), ("rate", "source_rate")]:
                port = weirgate.port(listener)
                async with (
                    udp_client(port, source=ONE) as one,
                    udp_client(port, source=ALIKE) as alike,
                    udp_client(port, source=OTHER) as other,
                ):
                    await one.ask(b"x")
                    alike.send(b"dropped")
                    await weirgate.counted(reason)
                    await other.ask(b"y")
            assert b"dropped" not in server.received


async def test_requests_of_a_network() -> None:
    config = Configuration(workers=2).listen("web")
    limit = {"rate": "1/h", "burst": 2, "source_prefix": NETWORK}
    config.route("all", filters=[{"rate_limit": limit}], respond={"body": "hello"})
    async with running(config) as weirgate:
        statuses = []
        for source in [ONE, ALIKE, ALIKE, ONE, OTHER]:
            async with connect(weirgate.port(), local=source) as wire:
                statuses.append((await wire.exchange(request())).status)
        assert statuses == [200, 200, 429, 429, 200]
