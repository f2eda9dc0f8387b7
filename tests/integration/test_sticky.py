"""Sticky sessions: a signed cookie keeps a client on its endpoint while that one is usable."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.origin import Origin, echoed, origins
from tests.support.strict import Response
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Site:
    origins: list[Origin]
    weirgate: Running

    async def get(self, *fields: str, path: str = "/") -> Response:
        return await get(self.weirgate.port(), path, *fields)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    config = Configuration(workers=2).listen("web")
    async with origins("a", "b", "c") as three:
        config.pool("all", *(origin.port for origin in three))
        dressed = {"cookie": "seat", "max_age": "1h", "secure": True, "path": "/dressed"}
        config.route(
            "dressed", match={"path": "/dressed"}, filters=[{"sticky": dressed}], pool="all"
        )
        config.route("all", filters=[{"sticky": {}}], pool="all")
        async with running(config) as weirgate:
            yield Site(three, weirgate)


def cookie(response: Response, name: str = "weirgate") -> str:
    """Return what the client would send back."""
    (line,) = [v for v in response.all("set-cookie") if v.startswith(f"{name}=")]
    return line.partition(";")[0]


async def test_client_with_the_cookie_stays(site: Site) -> None:
    for _ in range(6):
        first = await site.get()
        kept = cookie(first)
        for _ in range(10):
            again = await site.get(f"Cookie: other=1; {kept}; more=2")
            assert echoed(again).origin == echoed(first).origin
            assert again.all("set-cookie") == []


async def test_clients_without_the_cookie_are_spread(site: Site) -> None:
    seen = Counter([echoed(await site.get()).origin for _ in range(60)])
    assert set(seen) == {"a", "b", "c"}


async def test_cookie_is_not_forwarded_knowledge(site: Site) -> None:
    """Its value tells a client neither the address nor the name of an endpoint."""
    value = cookie(await site.get())
    assert not any(str(origin.port) in value for origin in site.origins)


async def test_forged_cookie_is_ignored(site: Site) -> None:
    kept = cookie(await site.get())
    forged = kept[:-1] + ("A" if kept[-1] != "A" else "B")
    for bad in (forged, "weirgate=", "weirgate=x", "weirgate=" + "a" * 3000, kept[:-4]):
        response = await site.get(f"Cookie: {bad}")
        assert response.status == 200
        assert cookie(response)


async def test_attributes(site: Site) -> None:
    plain = next(iter((await site.get()).all("set-cookie")))
    dressed = next(iter((await site.get(path="/dressed")).all("set-cookie")))
    assert re.search(r"; *httponly", plain, re.IGNORECASE)
    assert not re.search(r"max-age|; *secure", plain, re.IGNORECASE)
    for wanted in (r"^seat=", r"max-age=3600", r"path=/dressed", r"; *secure", r"; *httponly"):
        assert re.search(wanted, dressed, re.IGNORECASE), dressed


async def test_client_of_a_dead_endpoint_moves_and_stays_there(site: Site) -> None:
    first = await site.get()
    name = echoed(first).origin
    dead = next(origin for origin in site.origins if origin.name == name)
    await dead.stop()
    moved = await site.get(f"Cookie: {cookie(first)}")
    assert echoed(moved).origin != name
    for _ in range(5):
        again = await site.get(f"Cookie: {cookie(moved)}")
        assert echoed(again).origin == echoed(moved).origin


async def test_cookie_survives_a_reload_that_adds_an_endpoint(site: Site) -> None:
    first = await site.get()
    async with origins("d") as (new,):
        config = site.weirgate.config
        config.pool("all", *(origin.port for origin in site.origins), new.port)
        assert (await site.weirgate.reload(config)).json()["result"] == "applied"
        for _ in range(10):
            again = await site.get(f"Cookie: {cookie(first)}")
            assert echoed(again).origin == echoed(first).origin
