"""Which route a request takes, what the filters do to it, and what Weirgate answers itself."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.origin import Origin, echoed, held, origins
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

GRPC = "Content-Type: application/grpc"
ROUTES: list[dict[str, Any]] = [
    {"name": "exact", "match": {"path": "/exact"}, "pool": "b"},
    {"name": "prefix", "match": {"path": "/prefix/*"}, "pool": "b"},
    {"name": "regex", "match": {"path": {"regex": "^/r/[0-9]+$"}}, "pool": "b"},
    {"name": "paths", "match": {"path": ["/one", "/two/*"]}, "pool": "b"},
    {"name": "host", "match": {"host": "shop.test"}, "pool": "b"},
    {"name": "unicode", "match": {"host": "Bücher.test"}, "pool": "b"},
    {"name": "wildcard", "match": {"host": "*.wild.test"}, "pool": "b"},
    {"name": "method", "match": {"path": "/m/*", "method": ["PUT", "DELETE"]}, "pool": "b"},
    {"name": "header", "match": {"path": "/h/*", "header": {"X-Tier": "gold"}}, "pool": "b"},
    {"name": "h2", "match": {"path": "/hp/*", "header": {"x-a": {"prefix": "ab"}}}, "pool": "b"},
    {"name": "h3", "match": {"path": "/hr/*", "header": {"x-a": {"regex": "^a.c$"}}}, "pool": "b"},
    {"name": "h4", "match": {"path": "/h1/*", "header": {"x-a": True}}, "pool": "b"},
    {
        "name": "h5",
        "match": {"path": "/hn/*", "header": {"x-a": {"exact": "no", "not": True}}},
        "pool": "b",
    },
    {
        "name": "all-headers",
        "match": {"path": "/hh/*", "header": {"x-a": "1", "x-b": "2"}},
        "pool": "b",
    },
    {"name": "query", "match": {"path": "/q/*", "query": {"Beta": "1"}}, "pool": "b"},
    {"name": "cookie", "match": {"path": "/c/*", "cookie": {"canary": True}}, "pool": "b"},
    {"name": "grpc", "match": {"grpc": ["shop.Cart", "shop.Order/Pay"]}, "pool": "b"},
    {"name": "source", "match": {"path": "/s/*", "source": "127.0.0.2"}, "pool": "b"},
    {"name": "listener", "match": {"path": "/l/*", "listener": "side"}, "pool": "b"},
    {
        "name": "strip",
        "match": {"path": "/strip/*"},
        "filters": [{"rewrite_prefix": "/"}],
        "pool": "a",
    },
    {
        "name": "move",
        "match": {"path": "/old/*"},
        "filters": [{"rewrite_prefix": "/new"}],
        "pool": "a",
    },
    {
        "name": "edit",
        "match": {"path": "/edit/*"},
        "filters": [
            {
                "request_headers": {
                    "set": {"x-set": "new", "host": "inner.test"},
                    "add": {"x-add": "2"},
                    "remove": ["x-remove"],
                }
            },
            {"response_headers": {"set": {"x-origin": "hidden"}, "add": {"x-more": "1"}}},
        ],
        "pool": "a",
    },
    {
        "name": "ping",
        "match": {"path": "/ping", "method": "GET"},
        "respond": {"status": 203, "headers": {"x-by": "weirgate"}, "body": "pong"},
    },
    {"name": "gone", "match": {"path": "/gone"}, "redirect": {"to": "https://{host}{path}{query}"}},
    {"name": "away", "match": {"path": "/away"}, "redirect": {"to": "/here{query}", "status": 302}},
    {"name": "shadow", "match": {"path": "/exact"}, "pool": "a"},
    {"name": "rest", "match": {"host": ["weirgate.test", "[::1]"]}, "pool": "a"},
]


@pytest.fixture(scope="module")
async def weirgate() -> AsyncIterator[Running]:
    config = Configuration().listen("web").listen("side")
    async with origins("a", "b") as (a, b):
        config.pool("a", a.port).pool("b", b.port)
        config.data["routes"] = ROUTES
        async with running(config) as instance:
            yield instance


@pytest.mark.parametrize(
    ("raw", "origin"),
    [
        (request("/exact"), "b"),
        (request("/exact?q=1"), "b"),
        (request("/exact/"), "a"),
        (request("/Exact"), "a"),
        (request("/prefix"), "b"),
        (request("/prefix/"), "b"),
        (request("/prefix/x/y?z"), "b"),
        (request("/prefixed"), "a"),
        (request("/r/42"), "b"),
        (request("/r/42x"), "a"),
        (request("/one"), "b"),
        (request("/two/3"), "b"),
        (request("/", host="shop.test"), "b"),
        (request("/", host="xn--bcher-kva.test"), "b"),
        (request("/", host="XN--BCHER-KVA.test:80"), "b"),
        (request("/", host="SHOP.test:8080"), "b"),
        (request("/", host="a.wild.test"), "b"),
        (request("/", host="a.b.wild.test"), "b"),
        (request("/m/", method="PUT"), "b"),
        (request("/m/", method="DELETE"), "b"),
        (request("/m/", method="GET"), "a"),
        (request("/h/", "x-tier: gold"), "b"),
        (request("/h/", "X-TIER: gold"), "b"),
        (request("/h/", "X-Tier: Gold"), "a"),
        (request("/h/"), "a"),
        (request("/hp/", "X-A: abc"), "b"),
        (request("/hp/", "X-A: acb"), "a"),
        (request("/hr/", "X-A: abc"), "b"),
        (request("/hr/", "X-A: abbc"), "a"),
        (request("/h1/", "X-A:"), "b"),
        (request("/h1/"), "a"),
        (request("/hn/"), "b"),
        (request("/hn/", "X-A: yes"), "b"),
        (request("/hn/", "X-A: no"), "a"),
        (request("/hh/", "X-A: 1", "X-B: 2"), "b"),
        (request("/hh/", "X-A: 1"), "a"),
        (request("/q/?Beta=1"), "b"),
        (request("/q/?x=2&Beta=1"), "b"),
        (request("/q/?beta=1"), "a"),
        (request("/q/?Beta=12"), "a"),
        (request("/c/", "Cookie: a=1; canary=x"), "b"),
        (request("/c/", "Cookie: xcanary=1"), "a"),
        (request("/shop.Cart/Add", GRPC, method="POST"), "b"),
        (request("/shop.Cart/Get", f"{GRPC}+proto", method="POST"), "b"),
        (request("/shop.Cart/Add", GRPC, method="PUT"), "a"),
        (request("/shop.Cart/Add", "Content-Type: application/json", method="POST"), "a"),
        (request("/shop.Carts/Add", GRPC, method="POST"), "a"),
        (request("/shop.Order/Pay", GRPC, method="POST"), "b"),
        (request("/shop.Order/PayAll", GRPC, method="POST"), "a"),
        (request("/s/"), "a"),
        (request("/l/"), "a"),
        (request("/prefix/../plain"), "a"),
        (request("/prefix/%2e%2e/plain"), "a"),
        (request("/plain/../prefix/x"), "b"),
    ],
    ids=lambda value: value.split(b" HTTP")[0].decode() if isinstance(value, bytes) else value,
)
async def test_request_takes_the_first_route_that_matches(
    weirgate: Running, raw: bytes, origin: str
) -> None:
    async with connect(weirgate.port()) as wire:
        assert echoed(await wire.exchange(raw)).origin == origin


async def test_source_matches_the_client_address(weirgate: Running) -> None:
    async with connect(weirgate.port(), local="127.0.0.2") as wire:
        assert echoed(await wire.exchange(request("/s/"))).origin == "b"


async def test_listener_matches_the_one_that_the_client_came_by(weirgate: Running) -> None:
    async with connect(weirgate.port("side")) as wire:
        assert echoed(await wire.exchange(request("/l/x"))).origin == "b"
        assert echoed(await wire.exchange(request("/x"))).origin == "a"


@pytest.mark.parametrize("host", ["wild.test", "notwild.test", "other.test"])
async def test_request_without_a_route_is_answered_404(weirgate: Running, host: str) -> None:
    response = await get(weirgate.port(), "/", host=host)
    assert (response.status, response.reason) == (404, "no_route")


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip/a/b?c=d", "/a/b?c=d"),
        ("/old", "/new"),
        ("/old/", "/new/"),
        ("/old/a?b", "/new/a?b"),
        ("/plain%20x?y=%2F", "/plain%20x?y=%2F"),
    ],
)
async def test_prefix_is_rewritten(weirgate: Running, target: str, forwarded: str) -> None:
    assert echoed(await get(weirgate.port(), target)).target == forwarded


async def test_headers_are_edited_in_both_directions(weirgate: Running) -> None:
    fields = ("X-Set: old", "X-Set: older", "X-Add: 1", "X-Remove: 1", "X-Keep: 1")
    response = await get(weirgate.port(), "/edit/", *fields)
    seen = echoed(response)
    assert seen.all("x-set") == ["new"]
    assert seen.all("x-add") == ["1", "2"]
    assert seen.all("x-remove") == []
    assert seen.one("x-keep") == "1"
    assert seen.one("host") == "inner.test"
    assert response.all("x-origin") == ["hidden"]
    assert response.one("x-more") == "1"


async def test_weirgate_answers_itself(weirgate: Running) -> None:
    response = await get(weirgate.port(), "/ping")
    assert (response.status, response.body) == (203, b"pong")
    assert response.one("x-by") == "weirgate"
    assert response.reason == ""
    async with connect(weirgate.port()) as wire:
        head = await wire.exchange(request("/ping", method="POST", body=b"x"))
        assert echoed(head).origin == "a"


@pytest.mark.parametrize(
    ("target", "status", "location"),
    [
        ("/gone", 308, "https://weirgate.test/gone"),
        ("/gone?a=b&c", 308, "https://weirgate.test/gone?a=b&c"),
        ("/away?a", 302, "/here?a"),
        ("/away", 302, "/here"),
    ],
)
async def test_redirects(weirgate: Running, target: str, status: int, location: str) -> None:
    response = await get(weirgate.port(), target)
    assert (response.status, response.one("location")) == (status, location)


@pytest.mark.parametrize(
    ("balance", "slack"),
    [("round_robin", 0), ("least_request", 30), ("random", 30)],  # exact, or five deviations
)
async def test_load_is_spread_by_weight(balance: str, slack: int) -> None:
    async with origins("light", "heavy") as pair:
        light, heavy = pair
        config = Configuration().listen("web").route("all", pool="all")
        config.pool("all", balance=balance)
        config.data["pools"]["all"]["endpoints"] = [
            f"127.0.0.1:{light.port}",
            {"address": f"127.0.0.1:{heavy.port}", "weight": 3},
        ]
        async with running(config) as instance, connect(instance.port()) as wire:
            for _ in range(200):
                assert (await wire.exchange(request())).status == 200
    assert len(light.requests) + len(heavy.requests) == 200
    assert abs(len(heavy.requests) - 150) <= slack


@pytest.mark.parametrize(
    ("balance", "most"),
    [("least_connections", 0), ("least_request", 80)],  # exact, and the better of two samples
)
async def test_busy_endpoint_is_avoided(balance: str, most: int) -> None:
    gate = asyncio.Event()
    async with origins("a", "b") as pair:
        for origin in pair:
            origin.on("/hold", held(gate))
        config = Configuration().listen("web").route("all", pool="all")
        config.pool("all", *(origin.port for origin in pair), balance=balance)
        async with running(config) as instance, connect(instance.port()) as first:
            await first.send(request("/hold"))
            busy = await _holder(pair)
            async with connect(instance.port()) as second:
                answers = [echoed(await second.exchange(request())) for _ in range(200)]
            assert sum(answer.origin == busy.name for answer in answers) <= most
            gate.set()
            assert (await first.response()).status == 200


async def _holder(pair: list[Origin]) -> Origin:
    return await eventually(lambda: next((o for o in pair if o.heads), None))
