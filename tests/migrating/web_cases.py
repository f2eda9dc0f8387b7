"""Pools, paths, hosts, sessions, canaries and closed doors: what a client does, and what it saw."""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.migrating.site import Product
from tests.migrating.visitor import ELSEWHERE, Case, Seen, ask, names, two, who
from tests.support.origin import answer, echoed
from tests.support.strict import Response
from tests.support.wire import connect, get, request
from weirgate.shared.testing import eventually

#: So many that nobody is left out by chance.
MANY = 24
REQUESTS = 400
#: One in ten of 400: four standard deviations to either side.
A_TENTH = range(16, 65)


async def pool(product: Product, directory: Path) -> Seen:
    """Two endpoints, one of which is sick, then dead; then the other one, too."""
    async with two("pool", product, directory) as (port, (a, b)):

        async def asked(times: int = MANY) -> str:
            return names([await get(port) for _ in range(times)])

        seen = {f"{MANY} GETs": await asked()}
        a.on("/healthz", answer(503))
        if product is Product.NGINX:  # which never asks
            seen["a answers 503 to its check"] = await asked()
        else:
            await eventually(lambda: _is(asked, "b"), what="a taken out")
            seen["a answers 503 to its check"] = "b"
        del a.behaviours["/healthz"]
        if product is not Product.NGINX:
            await eventually(lambda: _is(asked, "a and b"), what="a put back")
        await a.stop()
        seen[f"a is dead, {MANY} GETs"] = await asked()
        seen["a is dead, POST"] = names([await ask(port, method="POST") for _ in range(4)])
        await b.stop()
        seen["both are dead"] = names([await get(port)])
    return seen


async def _is(asked: Callable[[], Awaitable[str]], wanted: str) -> bool:
    return await asked() == wanted


async def paths(product: Product, directory: Path) -> Seen:
    """Paths that belong to one pool, to the other, and to none."""
    async with two("paths", product, directory) as (port, _):

        async def asked(target: str) -> str:
            response = await get(port, target)
            if response.status != 200:
                return str(response.status)
            found = echoed(response)
            return f"{found.origin} sees {found.target}"

        targets = ("/api/v1?x=1", "/api/", "/api", "/apis", "/images/1.png", "/other", "/api/a%2Fb")
        return {f"GET {target}": await asked(target) for target in targets}


async def hosts(product: Product, directory: Path) -> Seen:
    """Names of one pool, of the other, and of none; with a port, and in capitals."""
    async with two("hosts", product, directory) as (port, _):
        asked = (
            "shop.example",
            "SHOP.example",
            "shop.example:80",
            "anna.shop.example",
            "x.anna.shop.example",
            "notshop.example",
        )
        return {f"Host: {host}": who(await get(port, host=host)) for host in asked}


async def sticky(product: Product, directory: Path) -> Seen:
    """A session that stays, one that must move, and one that the client made up."""
    async with two("sticky", product, directory) as (port, (a, _)):
        strangers = [await get(port) for _ in range(MANY)]
        cookies = {who(one): _cookie(one) for one in strangers}
        seen = {f"{MANY} GETs without a cookie": names(strangers)}
        again = [await get(port, "/", f"Cookie: {cookies['a']}") for _ in range(MANY)]
        seen[f"{MANY} GETs with the cookie from a"] = names(again)
        told = echoed(again[-1]).all("cookie")
        seen["the application sees the cookie"] = "yes" if told else "no"
        forged = [await get(port, "/", "Cookie: route=b") for _ in range(MANY)]
        seen[f"{MANY} GETs with a cookie made up: route=b"] = names(forged)
        await a.stop()
        moved = await get(port, "/", f"Cookie: {cookies['a']}")
        seen["the cookie from a, and a is dead"] = who(moved)
        seen["then the client is told"] = "b" if _cookie(moved) == cookies["b"] else "nothing"
    return seen


def _cookie(response: Response) -> str:
    return (response.one("set-cookie") or "").partition(";")[0]


async def canary(product: Product, directory: Path) -> Seen:
    """The new version for whom asks for it, and for some of the others."""
    async with two("canary", product, directory) as (port, _):
        asked = [await get(port, "/", "X-Canary: 1") for _ in range(MANY)]
        counts: Counter[str] = Counter()
        async with connect(port) as wire:
            for _ in range(REQUESTS):
                counts[who(await wire.exchange(request()))] += 1
        share = "a tenth of them" if counts["b"] in A_TENTH else f"{counts['b']} of them"
        return {
            f"{MANY} GETs with X-Canary: 1": names(asked),
            f"{REQUESTS} GETs without: b gets": share,
        }


async def maintenance(product: Product, directory: Path) -> Seen:
    """Answers of the balancer's own, and a way past them for the office."""
    office = {"192.0.2.0/24": f"{ELSEWHERE}/32"}
    async with two("maintenance", product, directory, **office) as (port, _):
        ping, closed = await get(port, "/ping"), await get(port, "/shop")
        head = await ask(port, "/shop", method="HEAD")
        return {
            "GET /ping": f"{ping.status} {ping.body.decode()}",
            "GET /shop": f"{closed.status} {closed.body.decode()}",
            "its Content-Type": closed.one("content-type") or "none",
            "its Retry-After": closed.one("retry-after") or "none",
            "HEAD /shop": f"{head.status}, length {head.one('content-length')}",
            "GET /shop from the office": who(await ask(port, "/shop", local=ELSEWHERE)),
        }


CASES: dict[str, Case] = {
    "pool": pool,
    "paths": paths,
    "hosts": hosts,
    "sticky": sticky,
    "canary": canary,
    "maintenance": maintenance,
}
