"""TLS towards endpoints: the certificate that is shown to them, and the keys they must have."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.authorities import Authority
from tests.support.origin import echoed, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

NO_PIN = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass(frozen=True)
class Node:
    weirgate: Running
    port: int
    picky: int


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    directory = tmp_path_factory.mktemp("pools")
    authority = Authority("endpoints")
    ca = str(authority.write(directory / "ca.pem"))
    leaf = authority.issue(directory, "app", names=[x509.DNSName("app.test")])
    own = authority.issue(directory, "weirgate").yaml()
    stranger = Authority("strangers").issue(directory, "stranger").yaml()
    picky = leaf.server_context()
    picky.load_verify_locations(ca)
    picky.verify_mode = ssl.CERT_REQUIRED
    usual = {"ca": ca, "server_name": "app.test"}
    blind = {"danger_skip_verify": True}
    check = {"path": "/healthz", "interval": "100ms", "fall": 1, "rise": 1}
    pools: dict[str, dict[str, Any]] = {
        "shown": {"picky": True, "tls": {**usual, "certificate": own}, "health": check},
        "stranger": {"picky": True, "tls": {**usual, "certificate": stranger}},
        "silent": {"picky": True, "tls": usual},
        "pinned": {"tls": {**usual, "pins": [NO_PIN, leaf.pin]}, "health": check},
        "wrong-pin": {"tls": {**usual, "pins": [NO_PIN]}, "health": check},
        "blind-pin": {"tls": {**blind, "pins": [leaf.pin]}},
        "blind-wrong-pin": {"tls": {**blind, "pins": [NO_PIN]}},
    }
    async with (
        one_origin(tls=leaf.server_context()) as origin,
        one_origin(tls=picky) as asking,
    ):
        config = Configuration().listen("web")
        for name, settings in pools.items():
            port = asking.port if settings.pop("picky", False) else origin.port
            config.pool(name, port, **settings)
            config.route(name, match={"path": f"/{name}"}, pool=name)
        async with running(config) as weirgate:
            yield Node(weirgate, origin.port, asking.port)


@pytest.mark.parametrize("pool", ["shown", "pinned", "blind-pin"])
async def test_a_good_endpoint_is_spoken_to(node: Node, pool: str) -> None:
    for _ in range(3):
        assert echoed(await get(node.weirgate.port("web"), f"/{pool}")).target == f"/{pool}"


@pytest.mark.parametrize("pool", ["wrong-pin", "blind-wrong-pin"])
async def test_another_key_is_refused(node: Node, pool: str) -> None:
    response = await get(node.weirgate.port("web"), f"/{pool}")
    assert (response.status, response.reason) == (502, "upstream_tls_failed")


@pytest.mark.parametrize("pool", ["silent", "stranger"])
async def test_an_endpoint_refuses_who_shows_nothing_good(node: Node, pool: str) -> None:
    # with TLS 1.3 it says so only behind the handshake
    assert (await get(node.weirgate.port("web"), f"/{pool}")).status == 502


async def test_checks_judge_as_requests_do(node: Node) -> None:
    async def states() -> dict[str, str]:
        pools = (await node.weirgate.status())["pools"]
        return {pool["name"]: pool["endpoints"][0]["state"] for pool in pools}

    async def settled() -> bool:
        seen = await states()
        return (seen["shown"], seen["pinned"], seen["wrong-pin"]) == ("up", "up", "down")

    await eventually(settled, within_s=10, what="states by certificate and pin")


async def test_a_certificate_that_is_renewed_is_shown_at_once(tmp_path: Path) -> None:
    authority, other = Authority(), Authority("strangers")
    own = other.issue(tmp_path, "weirgate")
    leaf = authority.issue(tmp_path, "app", names=[x509.DNSName("app.test")])
    picky = leaf.server_context()
    picky.load_verify_locations(authority.write(tmp_path / "ca.pem"))
    picky.verify_mode = ssl.CERT_REQUIRED
    tls = {"ca": str(tmp_path / "ca.pem"), "server_name": "app.test", "certificate": own.yaml()}
    async with one_origin(tls=picky) as origin:
        config = Configuration().listen("web").pool("app", origin.port, tls=tls)
        async with running(config.route("all", pool="app")) as weirgate:
            assert (await get(weirgate.port())).status == 502
            authority.issue(tmp_path, "weirgate")

            async def is_taken() -> bool:
                return (await get(weirgate.port())).status == 200

            await eventually(is_taken, within_s=10)
