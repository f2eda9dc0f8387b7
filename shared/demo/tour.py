"""What there is to try in the demo: one row for each idea, with a command and a check of it."""

import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from weirgate.shared.demo.site import HOST, Site
from weirgate.shared.testing import eventually

KILLED = "api-1"


class CheckFailedError(Exception):
    """A row did not do what it promises."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to try."""

    shows: str
    command: str
    check: Callable[["Visitor"], Awaitable[str]]


class Visitor:
    """A client of the demo."""

    def __init__(self, site: Site, client: httpx.AsyncClient) -> None:
        self.site = site
        self.client = client

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask the plain listener."""
        return await self.client.get(f"http://{HOST}:{self.site.ports.http}{path}", **options)

    async def admin(self, path: str) -> httpx.Response:
        """Ask the admin API."""
        return await self.client.get(f"http://{HOST}:{self.site.ports.admin}{path}")

    async def application(self, path: str, **options: Any) -> str:
        """Return which application answered a path."""
        response = await self.get(path, **options)
        _check(response.status_code == 200, f"{path} gave {response.status_code}")
        return str(response.headers.get("x-app", "weirgate itself"))


@contextlib.asynccontextmanager
async def visitor(site: Site) -> AsyncIterator[Visitor]:
    """Make a client that trusts the demo's certificate."""
    context = ssl.create_default_context(cafile=str(site.certificate))
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10) as client:
        yield Visitor(site, client)


def tour(site: Site) -> list[Row]:
    """Return the rows, the one that kills an application last."""
    web = f"http://localhost:{site.ports.http}"
    secure = f"https://localhost:{site.ports.https}"
    admin = f"http://localhost:{site.ports.admin}"
    pid = site.applications[KILLED].pid
    # as it was called: a virtual environment need not be on the caller's path
    called = sys.argv[0] if Path(sys.argv[0]).name == "weirgate" else "weirgate"
    return [
        Row("the shop, by default", f"curl {web}/", _shop),
        Row("the API, by path", f"curl {web}/api/hello", _api),
        Row("images, by path", f"curl {web}/images/logo.svg", _images),
        Row("a canary, by header", f"curl -H 'x-canary: yes' {web}/api/hello", _canary),
        Row("a cookie that sticks", f"curl -c jar -b jar {web}/api/cart", _sticky),
        Row("a limit: 3, then 1 in 2 s", f"curl -i {web}/api/limited", _limited),
        Row("answered by Weirgate", f"curl {web}/ping", _ping),
        Row("a redirect to TLS", f"curl -i {web}/account", _redirect),
        Row("TLS", f"curl --cacert {site.certificate} {secure}/api/tls", _tls),
        Row(
            "a TCP application",
            f"printf 'hello\\n' | curl -sm1 telnet://localhost:{site.ports.tcp}",
            _lines,
        ),
        Row("the node's state", f"{called} status --admin {admin}", _status),
        Row("metrics for Prometheus", f"curl {admin}/metrics", _metrics),
        Row("kill one; no request fails", f"kill -9 {pid}; curl {web}/api/hello", _kill),
    ]


async def _shop(visitor: Visitor) -> str:
    return _is(await visitor.application("/"), "shop")


async def _api(visitor: Visitor) -> str:
    seen = {await visitor.application("/api/hello") for _ in range(30)}
    _check(seen == {"api-1", "api-2"}, f"only {seen} answered")
    return "api-1 and api-2 answered in turn"


async def _images(visitor: Visitor) -> str:
    return _is(await visitor.application("/images/logo.svg"), "images")


async def _canary(visitor: Visitor) -> str:
    seen = {await visitor.application("/api/x", headers={"x-canary": "yes"}) for _ in range(10)}
    return _is(*seen, "api-2")


async def _sticky(visitor: Visitor) -> str:
    first = await visitor.get("/api/cart")
    kept = {"cookie": first.headers["set-cookie"].partition(";")[0]}
    visitor.client.cookies.clear()
    seen = {await visitor.application("/api/cart", headers=kept) for _ in range(20)}
    return _is(*seen, first.headers["x-app"]) + " 20 times"


async def _limited(visitor: Visitor) -> str:
    seen = [(await visitor.get("/api/limited")).status_code for _ in range(8)]
    _check(seen[:3] == [200] * 3 and 429 in seen, f"statuses {seen}")
    return f"{seen.count(200)} admitted, {seen.count(429)} refused with 429"


async def _ping(visitor: Visitor) -> str:
    response = await visitor.get("/ping")
    _check(response.text == "pong\n", f"got {response.text!r}")
    return "pong"


async def _redirect(visitor: Visitor) -> str:
    response = await visitor.get("/account?a=b")
    wanted = f"https://localhost:{visitor.site.ports.https}/account?a=b"
    return _is(response.headers.get("location", "no redirect"), wanted)


async def _tls(visitor: Visitor) -> str:
    response = await visitor.client.get(f"https://localhost:{visitor.site.ports.https}/api/tls")
    scheme = str(response.json()["scheme"])
    return _is(scheme, "https") + ", as the application sees it"


async def _lines(visitor: Visitor) -> str:
    reader, writer = await asyncio.open_connection(HOST, visitor.site.ports.tcp)
    try:
        writer.write(b"hello\n")
        async with asyncio.timeout(5):
            line = (await reader.readline()).decode().rstrip()
    finally:
        writer.close()
        await writer.wait_closed()
    _check(line.startswith("line-app ") and line.endswith(": hello"), f"got {line!r}")
    return line


async def _status(visitor: Visitor) -> str:
    status = (await visitor.admin("/status")).json()
    ready = [p["name"] for p in status["processes"] if p["state"] == "ready"]
    _check(len(ready) == 3, f"ready: {ready}")
    return ", ".join(ready) + " ready"


async def _metrics(visitor: Visitor) -> str:
    text = (await visitor.admin("/metrics")).text
    _check("weirgate_requests_total{" in text, "no weirgate_requests_total")
    return f"{len(text.splitlines())} lines"


async def _kill(visitor: Visitor) -> str:
    address = f"{HOST}:{visitor.site.addresses[KILLED]}"
    process = visitor.site.applications[KILLED]
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    served = 0

    async def ejected() -> bool:
        nonlocal served
        _is(await visitor.application("/api/hello"), "api-2")
        served += 1
        pools = (await visitor.admin("/status")).json()["pools"]
        api = next(pool for pool in pools if pool["name"] == "api")
        return any(e["address"] == address and e["state"] == "down" for e in api["endpoints"])

    await eventually(ejected, within_s=10, what=f"{KILLED} is ejected")
    return f"{served} requests answered by api-2 until {KILLED} was marked down"


def _is(seen: str, *more: str) -> str:
    """Check that all the words are one and the same, and return it."""
    _check(len({seen, *more}) == 1, f"{seen!r} is not {more[-1]!r}")
    return seen


def _check(holds: bool, text: str) -> None:  # noqa: FBT001 - an assertion reads like this
    if not holds:
        raise CheckFailedError(text)
