"""What the endpoint learns of the client: forwarding headers, request ids, PROXY headers."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.origin import Origin, answer, echoed, one_origin
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, proxy_v1, proxy_v2, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

FORGED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: outer.test",
    "Forwarded: for=6.6.6.6;proto=https",
    "X-Request-Id: theirs",
)


@dataclass(frozen=True)
class Pair:
    origin: Origin
    weirgate: Running

    def port(self, listener: str = "web") -> int:
        return self.weirgate.port(listener)


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    config = Configuration().listen("web")
    config.listen("behind", trusted_proxies=["127.0.0.0/8"])
    config.listen("proxied", proxy_protocol={"from": ["127.0.0.1"]})
    async with one_origin() as origin:
        config.pool("all", origin.port)
        config.route("inner", match={"source": "10.1.0.0/16"}, respond={"body": "inner"})
        config.route("all", pool="all")
        async with running(config) as weirgate:
            yield Pair(origin, weirgate)


async def test_client_is_named_to_the_endpoint(pair: Pair) -> None:
    seen = echoed(await get(pair.port(), "/", host="shop.test:81"))
    assert seen.one("x-forwarded-for") == "127.0.0.1"
    assert seen.one("x-forwarded-proto") == "http"
    assert seen.one("x-forwarded-host") == "shop.test:81"
    assert seen.one("host") == "shop.test:81"
    assert re.fullmatch(r"[0-9a-zA-Z-]{16,64}", seen.one("x-request-id"))


async def test_forged_headers_are_replaced(pair: Pair) -> None:
    seen = echoed(await get(pair.port(), "/", *FORGED))
    assert seen.one("x-forwarded-for") == "127.0.0.1"
    assert seen.one("x-forwarded-proto") == "http"
    assert seen.one("x-forwarded-host") == "weirgate.test"
    assert seen.one("x-request-id") != "theirs"
    assert not any("6.6.6.6" in value for value in seen.all("forwarded"))


async def test_headers_of_a_trusted_proxy_are_kept(pair: Pair) -> None:
    seen = echoed(await get(pair.port("behind"), "/", *FORGED))
    chain = ", ".join(seen.all("x-forwarded-for"))
    assert re.split(r",\s*", chain) == ["6.6.6.6", "127.0.0.1"]
    assert seen.one("x-forwarded-proto") == "https"
    assert seen.one("x-forwarded-host") == "outer.test"
    assert seen.one("x-request-id") == "theirs"
    assert any("6.6.6.6" in value for value in seen.all("forwarded"))


async def test_client_behind_a_trusted_proxy_is_matched_and_logged(pair: Pair) -> None:
    forwarded = "X-Forwarded-For: 10.1.2.3"
    assert (await get(pair.port("behind"), "/in", forwarded)).body == b"inner"
    entry = await pair.weirgate.access.of("/in")
    assert entry["client"].startswith("10.1.2.3")
    assert (await get(pair.port(), "/out", forwarded)).body != b"inner"


async def test_the_last_untrusted_address_is_the_client(pair: Pair) -> None:
    forwarded = "X-Forwarded-For: 10.1.2.3, 6.6.6.6, 127.0.0.9"
    assert (await get(pair.port("behind"), "/chain", forwarded)).body != b"inner"
    entry = await pair.weirgate.access.of("/chain")
    assert entry["client"].startswith("6.6.6.6")


async def test_request_id_is_the_same_for_endpoint_and_log_and_never_twice(pair: Pair) -> None:
    seen = [echoed(await get(pair.port(), f"/id{n}")).one("x-request-id") for n in range(5)]
    assert len(set(seen)) == 5
    for number, identity in enumerate(seen):
        entry = await pair.weirgate.access.of(f"/id{number}")
        assert entry["request_id"] == identity


async def test_connection_headers_stay_on_their_side(pair: Pair) -> None:
    fields = ["Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: 5", "TE: trailers"]
    seen = echoed(await get(pair.port(), "/", *fields))
    assert seen.all("x-hop") == seen.all("keep-alive") == []
    hop = ("Connection: X-Hop", "X-Hop: 1", "X-End: 2", "Keep-Alive: timeout=5")
    pair.origin.on("/hop", answer(200, b"", *hop))
    response = await get(pair.port(), "/hop")
    assert response.all("x-hop") == response.all("keep-alive") == []
    assert response.one("x-end") == "2"


async def test_repeated_and_ordered_headers_arrive_as_sent(pair: Pair) -> None:
    cookies = ("Set-Cookie: a=1", "Set-Cookie: b=2", "Vary: x", "Vary: y")
    pair.origin.on("/cookies", answer(200, b"", *cookies))
    response = await get(pair.port(), "/cookies")
    assert response.all("set-cookie") == ["a=1", "b=2"]
    assert ", ".join(response.all("vary")) == "x, y"
    seen = echoed(await get(pair.port(), "/", "Accept: a", "X-B: 1", "Accept: b", "X-B: 2"))
    assert ", ".join(seen.all("accept")) == "a, b"
    assert seen.all("x-b") == ["1", "2"]


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (proxy_v1("10.9.8.7"), "10.9.8.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (proxy_v2("10.9.8.7"), "10.9.8.7"),
        (proxy_v2("2001:db8::7"), "2001:db8::7"),
        (proxy_v2("10.9.8.7", tlvs=b"\x04\0\x02\0\0"), "10.9.8.7"),
        (proxy_v2("10.9.8.7", command=0x20), "127.0.0.1"),
    ],
    ids=["v1", "v1-ipv6", "v1-unknown", "v2", "v2-ipv6", "v2-tlv", "v2-local"],
)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "in-pieces"])
async def test_proxy_header_names_the_client(
    pair: Pair, header: bytes, client: str, *, split: bool
) -> None:
    async with connect(pair.port("proxied")) as wire:
        data = header + request("/")
        for piece in [data[i : i + 5] for i in range(0, len(data), 5)] if split else [data]:
            await wire.send(piece)
        assert echoed(await wire.response()).one("x-forwarded-for") == client
        assert echoed(await wire.exchange(request("/"))).one("x-forwarded-for") == client


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"PROXY\r\n",
        b"PROXY TCP4 10.9.8.7 192.0.2.1 4321\r\n",
        b"PROXY TCP4 10.9.8.777 192.0.2.1 4321 443\r\n",
        b"PROXY TCP4 10.9.8.7 192.0.2.1 4321 70000\r\n",
        b"PROXY TCP4 10.9.8.7 192.0.2.1 4321 443\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        proxy_v2("10.9.8.7", command=0x31),
        proxy_v2("10.9.8.7", command=0x2F),
        proxy_v2("10.9.8.7").replace(b"QUIT", b"QUIX"),
        proxy_v2("10.9.8.7")[:13] + b"\x11\0\x02\x01\x02",
    ],
    ids=lambda header: header[:24].hex(),
)
async def test_bad_proxy_header_ends_the_connection(pair: Pair, header: bytes) -> None:
    before = len(pair.origin.requests)
    async with connect(pair.port("proxied")) as wire:
        await wire.send(header + request("/secret"))
        assert b"200" not in (await wire.rest()).partition(b"\r\n")[0]
    assert len(pair.origin.requests) == before


async def test_missing_proxy_header_is_counted(pair: Pair) -> None:
    async with connect(pair.port("proxied")) as wire:
        await wire.send(request("/none"))
        await wire.rest()
    assert await pair.weirgate.counted("bad_proxy_header") >= 1


async def test_peer_that_is_not_named_sends_no_proxy_header(pair: Pair) -> None:
    async with connect(pair.port("proxied"), local="127.0.0.2") as wire:
        assert echoed(await wire.exchange(request("/"))).one("x-forwarded-for") == "127.0.0.2"
    async with connect(pair.port("proxied"), local="127.0.0.2") as wire:
        response = await wire.exchange(proxy_v1("10.9.8.7") + request("/"))
        assert response.status == 400


async def test_curl_speaks_the_proxy_protocol(pair: Pair) -> None:
    url = f"http://127.0.0.1:{pair.port('proxied')}/"
    done = await finished(peers.tool("curl"), "-sS", "--haproxy-protocol", url)
    assert done.code == 0, done.text
    assert b'"127.0.0.1"' in done.out


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_haproxy_in_front(pair: Pair, tmp_path: Path, version: str) -> None:
    async with peers.haproxy(tmp_path, pair.port("proxied"), send_proxy=version) as peer:
        async with connect(peer.port) as wire:
            seen = echoed(await wire.exchange(request("/")))
        assert seen.one("x-forwarded-for") == "127.0.0.1"
