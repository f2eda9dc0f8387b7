"""Out of descriptors: the reason is said, no endpoint is blamed, and all is well afterwards."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.load import load
from tests.support.origin import Origin, answer, echoed, one_origin
from tests.support.processes import descriptor_limit, descriptors
from tests.support.tcp import TcpServer, tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

#: Below every descriptor that a process of the node could open: the first three are always taken.
NONE = 3
BULK = hashlib.shake_128(b"bulk").digest(1 << 20) * 32
PLACES = 4
#: What a client of the crowd may meet: no descriptor for it, or none for its way to the endpoint.
TURNED_AWAY = {"reset", "closed where a response was due", "status_503_exhausted"}


@dataclass(frozen=True)
class Site:
    origin: Origin
    server: TcpServer
    weirgate: Running

    @property
    def port(self) -> int:
        return self.weirgate.port()

    @property
    def gateway(self) -> int:
        (pid,) = self.weirgate.gateways()
        return pid

    @property
    def edge(self) -> int:
        (pid,) = self.weirgate.edges()
        return pid

    async def blames(self, port: int) -> bool:
        """Say whether any process holds something against the endpoint."""
        endpoint = await self.weirgate.endpoint(port)
        failures = await self.weirgate.metric("weirgate_endpoint_connect_failures_total")
        return bool(endpoint["ejected"]) or endpoint["state"] == "down" or failures != 0


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Endpoints that fail closed: one that is ejected by mistake is missed at once."""
    config = Configuration().listen("web", connections_per_source=PLACES)
    config.listen("raw", protocol="tcp", pool="raw").listen("open")
    config.route("ping", match={"path": "/ping"}, respond={"body": "pong"})
    async with one_origin() as origin, tcp_server() as server:
        config.pool("all", origin.port, all_down="fail_closed").route("all", pool="all")
        config.pool("raw", server.port, all_down="fail_closed")
        async with running(config) as weirgate:
            yield Site(origin, server, weirgate)


async def test_gateway_that_cannot_connect_says_so_and_blames_nobody(site: Site) -> None:
    async with connect(site.port) as wire:
        assert (await wire.exchange(request("/ping"))).body == b"pong"
        with descriptor_limit(site.gateway, NONE):
            for number in range(3):
                response = await wire.exchange(request(f"/short/{number}"))
                assert (response.status, response.reason) == (503, "exhausted")
        assert echoed(await wire.exchange(request("/after"))).target == "/after"
    assert not await site.blames(site.origin.port)
    entry = await site.weirgate.access.of("/short/0")
    assert (entry["status"], entry["reason"], entry["retries"]) == (503, "exhausted", 0)


async def test_gateway_that_cannot_take_a_connection_resets_it_and_gives_its_place_back(
    site: Site,
) -> None:
    async def turned_away_beyond_the_places() -> bool:
        with contextlib.suppress(ConnectionResetError):
            async with connect(site.port) as wire:
                await wire.send(request("/ping"))
                assert await wire.maybe_response() is None
        reasons = "weirgate_reasons_total"
        return await site.weirgate.metric(reasons, reason="exhausted") > 2 * PLACES

    await site.weirgate.status()  # opens the control connections that are used below
    with descriptor_limit(site.gateway, NONE):
        await eventually(turned_away_beyond_the_places)

    async def all_places_are_free() -> bool:
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(ConnectionError, AssertionError):
                wires = [await stack.enter_async_context(connect(site.port)) for _ in range(PLACES)]
                bodies = [(await wire.exchange(request("/ping"))).body for wire in wires]
                return bodies == [b"pong"] * PLACES
        return False

    await eventually(all_places_are_free)
    assert echoed(await get(site.weirgate.port("open"), "/after")).target == "/after"
    assert not await site.blames(site.origin.port)


@pytest.mark.parametrize("listener", ["open", "raw"])
async def test_edge_that_cannot_accept_leaves_clients_waiting_and_serves_them_later(
    site: Site, listener: str
) -> None:
    async def counted() -> bool:
        exhausted = "weirgate_edge_accept_exhausted_total"
        return await site.weirgate.metric(exhausted, listener=listener) > 1

    port = site.weirgate.port(listener)
    async with contextlib.AsyncExitStack() as stack:
        await site.weirgate.status()  # opens the control connections that are used below
        with descriptor_limit(site.edge, NONE):
            wires = [await stack.enter_async_context(connect(port)) for _ in range(20)]
            for wire in wires:
                await wire.send(request("/ping"))
            await eventually(counted)
            assert not any(wire.reader.at_eof() for wire in wires)
        for wire in wires:
            if listener == "open":
                assert (await wire.response()).body == b"pong"
            else:
                assert await wire.exactly(4) == b"GET "


async def test_edge_that_cannot_connect_resets_the_client_and_blames_nobody(site: Site) -> None:
    port = site.weirgate.port("raw")
    before = site.server.accepted

    async def is_reset() -> bool:
        """With one descriptor to be had, the accepted socket takes it."""
        used = descriptors(site.edge)
        free = next(number for number in range(len(used) + 1) if number not in used)
        with descriptor_limit(site.edge, free + 1), contextlib.suppress(ConnectionError):
            async with connect(port) as wire:
                await wire.send(b"x")
                return await wire.rest() == b""
        return True

    assert await is_reset()
    assert site.server.accepted == before
    entry = await site.weirgate.access.wait_for(lambda e: e["reason"] == "exhausted")
    assert entry["listener"] == "raw"
    async with connect(port) as wire:  # at once: an ejection would last for a second
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
    assert not await site.blames(site.server.port)


async def test_crowd_beyond_the_limit_is_turned_away_and_the_node_recovers(site: Site) -> None:
    """As an operator meets it: the limit is too low for the clients that come."""
    port = site.weirgate.port("open")
    gateway = site.gateway
    with descriptor_limit(gateway, len(descriptors(gateway)) + 20):
        async with load(port, "/crowd", connections=60) as crowd:
            await eventually(
                lambda: crowd.ok > 200 and crowd.kinds().total() > 50,
                within_s=30,
                explain=lambda: f"{crowd.ok} answered, {crowd.kinds()}",
            )
        assert crowd.kinds().keys() <= TURNED_AWAY, crowd.kinds()
        # Gone, the clients leave their descriptors behind, under the same limit.

        async def well() -> bool:
            with contextlib.suppress(ConnectionError, AssertionError):
                return all([(await get(port)).status == 200 for _ in range(20)])
            return False

        await eventually(well, within_s=30)
    assert await site.weirgate.counted("exhausted") > 0
    assert not await site.blames(site.origin.port)
    assert await site.weirgate.ready()
    assert site.gateway == gateway


async def test_stream_is_copied_when_there_is_no_pipe_for_splice(site: Site) -> None:
    port = site.weirgate.port("raw")

    async def there_and_back() -> None:
        sending = asyncio.create_task(wire.send(BULK))
        assert hashlib.sha256(await wire.exactly(len(BULK))).digest() == digest
        await sending

    digest = hashlib.sha256(BULK).digest()
    pipes = len(descriptors(site.edge, "pipe:"))
    async with connect(port) as wire:
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        with descriptor_limit(site.edge, NONE):
            await there_and_back()
            assert len(descriptors(site.edge, "pipe:")) == pipes
        # The same stream has its pipes as soon as they can be had.
        await there_and_back()
        assert len(descriptors(site.edge, "pipe:")) == pipes + 4


async def test_answer_is_copied_when_there_is_no_pipe_for_splice(site: Site) -> None:
    site.origin.on("/bulk", answer(200, BULK))
    pipes = len(descriptors(site.gateway, "pipe:"))
    async with connect(site.port) as wire:
        for path in ("/warm", "/warmer"):  # from here on the endpoint's connection is a kept one
            assert echoed(await wire.exchange(request(path))).connection == 0
        with descriptor_limit(site.gateway, NONE):
            assert (await wire.exchange(request("/bulk"))).body == BULK
            assert len(descriptors(site.gateway, "pipe:")) == pipes
        assert (await wire.exchange(request("/bulk"))).body == BULK
        assert len(descriptors(site.gateway, "pipe:")) == pipes + 2
    assert len(site.origin.connections) == 1
