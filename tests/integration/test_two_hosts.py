"""``weirgate edge`` and ``weirgate gateway``: what passes between them, and what is refused."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import client_context, issue
from tests.support.origin import Origin, echo, echoed, one_origin
from tests.support.tcp import tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, proxy_v1, proxy_v2, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

#: Each is a host of its own, as far as ports go. The edge calls from 127.0.0.1.
NODES = ("127.0.0.11", "127.0.0.12")
EDGE = "127.0.0.1"
ID = b"00112233445566778899aabbccddeeff"
PATIENCE_S = 30.0


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def introduction(client: str = "192.0.2.77", listener: bytes = b"web") -> bytes:
    """Return the header of an edge."""
    return proxy_v2(client, tlvs=tlv(5, ID) + tlv(0xE0, listener))


class Site:
    """The one file, and what is different on each host."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.tier_port, self.load_port, self.edge_port = free_port(), free_port(), free_port()
        self.listeners: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, Any] = {}
        self.pools: dict[str, int] = {}
        self.endpoints = [f"{node}:{self.tier_port}" for node in NODES[:1]]

    def file(self, host: str = NODES[0]) -> Configuration:
        config = Configuration().listen("web", bind=f"127.0.0.1:{self.edge_port}")
        for name, settings in self.listeners.items():
            config.listen(name, **settings)
        for name, port in self.pools.items():
            config.pool(name, port)
        config.pool("all", self.origin.port).route("all", pool="all")
        nodes = {
            "endpoints": self.endpoints,
            "bind": f"{host}:{self.tier_port}",
            "edges": EDGE,
            "connect_timeout": "2s",
            "health": {"bind": f"{host}:{self.load_port}", "interval": "200ms", "timeout": "2s"},
        }
        return config.gateway(nodes=nodes | self.nodes)

    @contextlib.asynccontextmanager
    async def gateway(self, host: str = NODES[0]) -> AsyncIterator[Running]:
        async with running(self.file(host), verb="gateway") as instance:
            yield instance

    @contextlib.asynccontextmanager
    async def edge(self, *, wanted: int = 1) -> AsyncIterator[Running]:
        """Run the edge, and wait until so many gateway nodes are up for it."""
        async with running(self.file(), verb="edge") as instance:
            await ups(instance, wanted)
            yield instance


async def nodes(edge: Running) -> dict[str, dict[str, Any]]:
    """Return what the edge says of its gateway nodes, by address."""
    pools = (await edge.status())["pools"]
    (pool,) = [pool for pool in pools if pool["name"] == "gateways"]
    return {e["address"].rpartition(":")[0]: e for e in pool["endpoints"]}


async def ups(edge: Running, wanted: int) -> None:
    async def seen() -> bool:
        states = [node["state"] for node in (await nodes(edge)).values()]
        return states.count("up") == wanted

    await eventually(seen, within_s=PATIENCE_S, what=f"{wanted} gateway nodes up")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with one_origin() as origin:
        origin.on("/echo", echo)
        yield Site(origin)


async def test_a_request_passes_both_and_is_known_by_one_id_and_the_client_s_address(
    site: Site,
) -> None:
    async with site.gateway() as gateway, site.edge() as edge:
        async with connect(site.edge_port, local="127.0.0.99") as wire:
            seen = echoed(await wire.exchange(request("/echo")))
            assert seen.one("x-forwarded-for") == "127.0.0.99"
            assert seen.one("x-request-id").endswith("-1")
            again = echoed(await wire.exchange(request("/echo")))
            assert again.one("x-request-id").endswith("-2")
        served = await gateway.access.of("/echo")
        relayed = await edge.access.wait_for(lambda e: e["pool"] == "gateways" and e["bytes_in"])
        assert served["connection_id"] == relayed["connection_id"]
        assert served["request_id"] == f"{relayed['connection_id']}-1"
        assert (served["listener"], relayed["listener"]) == ("web", "web")
        assert served["client"] == relayed["client"]
        assert relayed["endpoint"] == site.endpoints[0]
        statuses = await edge.status(), await gateway.status()
        assert [status["role"] for status in statuses] == ["edge", "gateway"]
        assert [len(status["processes"]) for status in statuses] == [1, 2]


async def test_tls_ends_in_the_gateway_and_an_edge_needs_no_key(site: Site, tmp_path: Path) -> None:
    files = issue(tmp_path, "shop.test")
    for name, more in (
        ("secure", {}),
        ("mixed", {"protocol": "tls", "terminate": ["shop.test"], "default": "plain"}),
    ):
        bind = f"127.0.0.1:{free_port()}"
        site.listeners[name] = {"bind": bind, "tls": {"certificates": [files.yaml()]}, **more}
    async with tcp_server() as plain:
        site.pools["plain"] = plain.port
        async with site.gateway() as gateway:
            files.key.unlink()  # what an edge's host does not have
            files.cert.unlink()
            async with site.edge() as edge:
                await _ask_by_tls(edge, gateway)
                async with connect(edge.port("mixed")) as wire:  # no TLS at all
                    await wire.send(b"plain text" * 10)
                    assert await wire.rest() == b""


async def _ask_by_tls(edge: Running, gateway: Running) -> None:
    for name in ("secure", "mixed"):
        async with connect(edge.port(name), tls=client_context(), server_name="shop.test") as wire:
            seen = echoed(await wire.exchange(request("/echo", host="shop.test")))
        assert seen.one("x-forwarded-proto") == "https"
        assert seen.one("x-forwarded-for") == "127.0.0.1"

        def of_it(entry: dict[str, Any], name: str = name) -> bool:
            return bool(entry["listener"] == name)

        await gateway.access.wait_for(of_it)
    relayed = await edge.access.wait_for(lambda entry: entry.get("sni") == "shop.test")
    assert relayed["pool"] == "gateways"


async def refused(site: Site, data: bytes, local: str = EDGE) -> None:
    """Send bytes to the gateway node; nothing may come back."""
    with contextlib.suppress(OSError):  # a reset, perhaps before the connection was seen to be made
        async with connect(site.tier_port, host=NODES[0], local=local) as wire:
            await wire.send(data)
            assert await wire.rest() == b""


async def test_a_gateway_believes_its_edges_only_and_those_have_to_say_who_the_client_is(
    site: Site,
) -> None:
    asked = request("/echo")
    async with site.gateway() as gateway:
        await refused(site, introduction() + asked, local="127.0.0.5")
        assert await gateway.counted("denied", within_s=PATIENCE_S)
        for wrong in (
            asked,
            proxy_v1("192.0.2.77") + asked,
            proxy_v2("192.0.2.77") + asked,
            proxy_v2("192.0.2.77", tlvs=tlv(5, b"not an id") + tlv(0xE0, b"web")) + asked,
            proxy_v2("192.0.2.77", tlvs=tlv(5, ID)) + asked,
            proxy_v2("192.0.2.77", tlvs=tlv(5, ID) + tlv(0xE0, b"web") + b"\x03\x00\x04abcd"),
        ):
            await refused(site, wrong)
        metric = "weirgate_reasons_total"
        bad = await gateway.metric(metric, reason="bad_proxy_header")
        assert bad >= 6
        for unknown in (b"nothing", b"edges", b"\xff"):
            await refused(site, introduction(listener=unknown) + asked)
        unserved = await gateway.metric(metric, reason="config_changed")
        bad_now = await gateway.metric(metric, reason="bad_proxy_header")
        assert (unserved, bad_now) == (2, bad + 1)
        assert site.origin.requests == []
        async with connect(site.tier_port, host=NODES[0], local=EDGE) as wire:
            seen = echoed(await wire.exchange(introduction() + asked))
        assert seen.one("x-forwarded-for") == "192.0.2.77"
        entry = await gateway.access.of("/echo")
        assert (entry["connection_id"], entry["client"]) == (ID.decode(), "192.0.2.77:4321")


async def test_a_client_of_a_unix_socket_is_this_host(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    site.listeners["local"] = {"bind": f"unix:{path}"}
    async with site.gateway() as gateway, site.edge():
        wire = Wire(*await asyncio.open_unix_connection(path))
        seen = echoed(await wire.exchange(request("/echo")))
        await wire.close()
        assert seen.one("x-forwarded-for") == "127.0.0.1"
        assert (await gateway.access.of("/echo"))["listener"] == "local"


async def test_x_forwarded_for_is_kept_from_a_proxy_that_the_edge_saw(site: Site) -> None:
    site.listeners["behind"] = {
        "bind": f"127.0.0.1:{free_port()}",
        "trusted_proxies": "127.0.0.44",
    }
    fields = ("X-Forwarded-For: 198.51.100.9",)
    async with site.gateway(), site.edge() as edge:
        for source, wanted in (
            ("127.0.0.44", "198.51.100.9, 127.0.0.44"),
            ("127.0.0.1", "127.0.0.1"),
        ):
            async with connect(edge.port("behind"), local=source) as wire:
                seen = echoed(await wire.exchange(request("/echo", *fields)))
            assert seen.one("x-forwarded-for") == wanted


async def test_the_busier_node_gets_less_though_it_is_another_s_work(site: Site) -> None:
    site.endpoints = [f"{node}:{site.tier_port}" for node in NODES]
    async with site.gateway(NODES[0]), site.gateway(NODES[1]), site.edge(wanted=2) as edge:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(60):  # of some other edge
                wire = await held.enter_async_context(
                    connect(site.tier_port, host=NODES[0], local=EDGE)
                )
                await wire.exchange(introduction() + request("/echo"))

            async def told() -> bool:
                load = (await nodes(edge))[NODES[0]]["load"]
                return bool(load and load["connections"] >= 60)

            await eventually(told, within_s=PATIENCE_S, what="the load of the busy node")
            await edge.admin.get("/status")
            before = {host: node["requests_total"] for host, node in (await nodes(edge)).items()}

            async def avoided() -> bool:
                """Say whether what comes now goes to the idle one; a push may be under way."""
                async with contextlib.AsyncExitStack() as own:
                    counts = (await nodes(edge))[NODES[0]]["requests_total"]
                    for _ in range(20):
                        wire = await own.enter_async_context(connect(site.edge_port))
                        await wire.exchange(request("/echo"))
                    return bool((await nodes(edge))[NODES[0]]["requests_total"] == counts)

            await eventually(avoided, within_s=PATIENCE_S, what="connections to the idle node only")
            after = {host: node["requests_total"] for host, node in (await nodes(edge)).items()}
            assert after[NODES[1]] - before[NODES[1]] >= 20

        async def shared() -> bool:
            async with connect(site.edge_port) as wire:
                await wire.exchange(request("/echo"))
            now = (await nodes(edge))[NODES[0]]["requests_total"]
            return bool(now > after[NODES[0]])

        await eventually(shared, within_s=PATIENCE_S, what="both nodes in use again")


async def test_a_node_that_is_not_there_is_passed_over_without_an_error(site: Site) -> None:
    site.endpoints = [f"{node}:{site.tier_port}" for node in NODES]
    async with site.gateway(NODES[1]), site.edge(wanted=1) as edge:
        for _ in range(20):
            async with connect(site.edge_port) as wire:
                assert (await wire.exchange(request("/echo"))).status == 200
        assert (await nodes(edge))[NODES[0]]["state"] == "down"
        assert edge.process.returncode is None


async def test_nodes_are_found_by_name_and_each_address_is_one(site: Site) -> None:
    site.endpoints = [f"localhost:{site.tier_port}"]
    site.nodes = {
        "bind": f"127.0.0.1:{site.tier_port}",
        "health": {"bind": f"127.0.0.1:{site.load_port}", "interval": "200ms", "timeout": "2s"},
    }
    async with site.gateway(), site.edge() as edge:
        found = {e["address"] for e in (await nodes(edge)).values()}
        assert f"127.0.0.1:{site.tier_port}" in found
        assert all(not address.startswith("localhost") for address in found)
        async with connect(site.edge_port) as wire:
            assert (await wire.exchange(request("/echo"))).status == 200


async def test_a_listener_that_a_reload_adds_needs_no_new_port_between_the_hosts(
    site: Site,
) -> None:
    async with site.gateway() as gateway, site.edge() as edge:
        site.listeners["more"] = {"bind": f"127.0.0.1:{free_port()}"}
        for node in (gateway, edge):
            own = node.config.data["admin"]["bind"]
            config = site.file()
            config.data["admin"]["bind"] = own
            answer = await node.reload(config)
            assert answer.json()["result"] == "applied", answer.text
        async with connect(edge.port("more")) as wire:
            assert (await wire.exchange(request("/echo"))).status == 200
        assert (await gateway.access.of("/echo"))["listener"] == "more"


async def test_a_drained_node_says_so_gets_nothing_and_comes_back(site: Site) -> None:
    site.endpoints = [f"{node}:{site.tier_port}" for node in NODES]
    async with (
        site.gateway(NODES[0]) as first,
        site.gateway(NODES[1]),
        site.edge(wanted=2) as edge,
    ):
        answer = await first.admin.post("/drain", params={"target": "node", "replace": "true"})
        assert answer.status_code == 422
        answer = await first.admin.post("/drain", params={"target": "node", "by": "alice"})
        assert (answer.status_code, answer.json()["by"]) == (202, "alice")

        async def drained() -> bool:
            (order,) = (await first.admin.get("/drain?target=node")).json()["drains"]
            return bool(order["drained"])

        await eventually(drained, within_s=PATIENCE_S, what="drained")
        assert (await nodes(edge))[NODES[0]]["state"] == "draining"
        before = (await nodes(edge))[NODES[0]]["requests_total"]
        for _ in range(10):
            async with connect(site.edge_port) as wire:
                assert (await wire.exchange(request("/echo"))).status == 200
        assert (await nodes(edge))[NODES[0]]["requests_total"] == before
        answer = await first.admin.post("/undrain", params={"target": "node"})
        assert answer.json()["result"] == "undrained"
        await ups(edge, 2)
        answer = await first.admin.post("/undrain", params={"target": "node"})
        assert answer.json()["result"] == "unchanged"
        answer = await edge.admin.post("/drain", params={"target": "node"})
        assert (answer.status_code, "gateways" in answer.json()["error"]) == (404, True)


async def test_the_load_listener_answers_one_thing_and_holds_no_place_for_long_requests(
    site: Site,
) -> None:
    async with site.gateway() as gateway:
        port = site.load_port

        async def asked(data: bytes) -> bytes:
            async with connect(port, host=NODES[0]) as wire:
                with contextlib.suppress(OSError):
                    await wire.send(data)
                return await wire.rest()

        async def ready() -> bool:
            return b'"state": "ready"' in await asked(b"GET /load HTTP/1.1\r\n\r\n")

        await eventually(ready, what="ready")
        assert (await asked(b"HEAD /load HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        for wrong, status in ((b"GET /status", b"404"), (b"POST /load", b"405"), (b"\0", b"404")):
            assert (await asked(wrong + b" HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 " + status)
        assert await asked(b"x" * 20_000) == b""
        assert (await gateway.admin.get("/health")).status_code == 200


def test_every_header_helper_is_what_a_gateway_reads() -> None:
    header = introduction()
    assert header[12:14] == b"\x21\x11"
    assert struct.unpack("!H", header[14:16])[0] == len(header) - 16
    assert socket.inet_ntoa(header[16:20]) == "192.0.2.77"
