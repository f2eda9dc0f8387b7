"""Rate limits: per source, one bucket for the whole node, refilled at the rate."""

from collections import Counter

import pytest

from tests.support.origin import one_origin
from tests.support.weirgate import running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


def limited(rate: str, burst: int, workers: int = 2) -> Configuration:
    config = Configuration(workers=workers).listen("web")
    limit = {"rate_limit": {"rate": rate, "burst": burst}}
    config.route("limited", match={"path": "/limited"}, filters=[limit], pool="all")
    return config.route("free", pool="all")


async def test_burst_is_one_for_the_node_and_each_source_has_its_own() -> None:
    async with one_origin() as origin:
        config = limited("1/h", 10).pool("all", origin.port)
        async with running(config) as weirgate:
            port = weirgate.port()
            answers = [await get(port, "/limited") for _ in range(30)]
            assert Counter(a.status for a in answers) == {200: 10, 429: 20}
            assert {a.reason for a in answers if a.status == 429} == {"rate_limited"}
            async with connect(port, local="127.0.0.2") as wire:
                assert (await wire.exchange(request("/limited"))).status == 200
            assert (await get(port, "/free")).status == 200
            entry = await weirgate.access.wait_for(lambda e: e["reason"] == "rate_limited")
            assert (entry["status"], entry["route"]) == (429, "limited")
            assert len([r for r in origin.requests if r.target == "/limited"]) == 11


async def test_bucket_fills_again() -> None:
    async with one_origin() as origin:
        config = limited("20/s", 1, workers=1).pool("all", origin.port)
        async with running(config) as weirgate:
            port = weirgate.port()

            async def refused() -> bool:
                return (await get(port, "/limited")).status == 429

            async def admitted() -> bool:
                return (await get(port, "/limited")).status == 200

            await eventually(refused)
            await eventually(admitted, within_s=2)


async def test_reload_keeps_the_bucket() -> None:
    async with one_origin() as origin:
        config = limited("1/h", 3, workers=1).pool("all", origin.port)
        async with running(config) as weirgate:
            for _ in range(3):
                assert (await get(weirgate.port(), "/limited")).status == 200
            config.route("new", match={"path": "/new"}, respond={})
            assert (await weirgate.reload(config)).json()["result"] == "applied"
            assert (await get(weirgate.port(), "/limited")).status == 429
