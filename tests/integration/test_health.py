"""Health: endpoints go down and come back, what happens when all are down, retries elsewhere."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.http2_servers import grpc_app, hypercorn
from tests.support.origin import Origin, answer, echoed, one_origin, origins
from tests.support.tcp import tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

CHECK: dict[str, Any] = {"interval": "100ms", "timeout": "1s", "rise": 2, "fall": 2}
HTTP_CHECK = {**CHECK, "path": "/healthz"}


async def reaches(weirgate: Running, origin: Origin | int, state: str) -> None:
    """Wait until the node says that the endpoint is in this state."""
    port = origin if isinstance(origin, int) else origin.port

    async def seen() -> bool:
        return bool((await weirgate.endpoint(port))["state"] == state)

    await eventually(seen, what=f"the endpoint is {state}")


async def asked(weirgate: Running, count: int = 20) -> Counter[str]:
    return Counter([echoed(await get(weirgate.port(), "/")).origin for _ in range(count)])


def over(*endpoints: Origin | int, **pool: Any) -> Configuration:
    ports = [e if isinstance(e, int) else e.port for e in endpoints]
    config = Configuration(workers=2).listen("web").route("all", pool="all")
    return config.pool("all", *ports, **pool)


async def test_endpoint_goes_down_and_comes_back() -> None:
    async with origins("a", "b") as (a, b), running(over(a, b, health=HTTP_CHECK)) as weirgate:
        await reaches(weirgate, a, "up")
        await reaches(weirgate, b, "up")
        a.on("/healthz", answer(500))
        await reaches(weirgate, a, "down")

        async def only_b() -> bool:
            return await asked(weirgate) == {"b": 20}

        await eventually(only_b)
        assert "500" in (await weirgate.endpoint(a.port))["last_error"]
        assert await weirgate.metric("weirgate_endpoint_up", pool="all") == 1
        a.on("/healthz", answer(204))
        await reaches(weirgate, a, "up")

        async def both() -> bool:
            return set(await asked(weirgate)) == {"a", "b"}

        await eventually(both)


async def test_endpoint_that_stops_listening_goes_down_without_an_error() -> None:
    async with origins("a", "b") as (a, b), running(over(a, b, health=HTTP_CHECK)) as weirgate:
        await reaches(weirgate, a, "up")
        await a.stop()
        assert await asked(weirgate, 40) == {"b": 40}
        await reaches(weirgate, a, "down")
        await a.start()
        await reaches(weirgate, a, "up")


async def test_fail_closed_answers_503_when_all_are_down() -> None:
    async with one_origin() as origin:
        origin.on("/healthz", answer(500))
        config = over(origin, health=HTTP_CHECK, all_down="fail_closed")
        async with running(config) as weirgate:
            await reaches(weirgate, origin, "down")

            async def refused() -> bool:
                response = await get(weirgate.port(), "/")
                return (response.status, response.reason) == (503, "no_endpoint")

            await eventually(refused)


async def test_fail_open_sends_to_all_when_all_are_down() -> None:
    async with origins("a", "b") as (a, b):
        for origin in (a, b):
            origin.on("/healthz", answer(500))
        async with running(over(a, b, health=HTTP_CHECK)) as weirgate:
            await reaches(weirgate, a, "down")
            await reaches(weirgate, b, "down")
            assert set(await asked(weirgate)) == {"a", "b"}


@pytest.mark.parametrize(
    ("expect", "healthy"),
    [
        ({"status": 200}, answer(200)),
        ({"status": ["200-299", 404]}, answer(404)),
        ({"headers": {"x-ready": "yes"}}, answer(200, b"", "X-Ready: yes")),
        ({"body": "I am well"}, answer(200, b"thank you, I am well.")),
    ],
    ids=["status", "statuses", "headers", "body"],
)
async def test_expectations(expect: dict[str, Any], healthy: Any) -> None:
    async with origins("a", "b") as (a, b):
        a.on("/healthz", answer(302, b"nothing of this"))
        b.on("/healthz", healthy)
        check = {**HTTP_CHECK, "expect": expect}
        async with running(over(a, b, health=check)) as weirgate:
            await reaches(weirgate, a, "down")
            await reaches(weirgate, b, "up")


async def test_check_by_http_speaks_the_version_of_the_pool(tmp_path: Path) -> None:
    async with hypercorn(tmp_path) as app:
        check = {**CHECK, "path": "/hello", "expect": {"body": "hello"}}
        config = over(app.port, protocol="h2c", health=check)
        async with running(config) as weirgate:
            await reaches(weirgate, app.port, "up")
            assert (await get(weirgate.port(), "/hello")).body == b"hello"


async def test_check_by_connecting_and_on_another_port() -> None:
    async with one_origin() as origin, tcp_server() as door:
        check = {**CHECK, "tcp": True, "port": door.port}
        async with running(over(origin, health=check)) as weirgate:
            await reaches(weirgate, origin, "up")
            assert door.accepted > 0
            assert (await get(weirgate.port(), "/")).status == 200


async def test_check_by_grpc_says_what_came(tmp_path: Path) -> None:
    async with grpc_app(tmp_path) as good, grpc_app(tmp_path) as other, one_origin() as plain:
        check = {**CHECK, "grpc": True}
        async with running(over(good.port, plain, health=check)) as weirgate:
            await reaches(weirgate, good.port, "up")
            await reaches(weirgate, plain, "down")
            # the origin of HTTP/1.1 hangs up, or resets what it has not read
            assert "connection" in (await weirgate.endpoint(plain.port))["last_error"]
        check["grpc"] = "shop.Cart"
        async with running(over(other.port, health=check)) as weirgate:
            await reaches(weirgate, other.port, "down")
            assert "NOT_FOUND" in (await weirgate.endpoint(other.port))["last_error"]


async def test_hanging_check_counts_as_failed() -> None:
    async with tcp_server() as silent, one_origin() as origin:
        check = {**HTTP_CHECK, "timeout": "200ms"}
        async with running(over(silent.port, origin, health=check)) as weirgate:
            await reaches(weirgate, silent.port, "down")
            await reaches(weirgate, origin, "up")


async def test_request_to_a_dead_endpoint_is_sent_to_another() -> None:
    async with origins("a", "b") as (a, b):
        config = over(free_port(), a, free_port(), b, retries=3)
        async with running(config) as weirgate:
            assert set(await asked(weirgate, 60)) == {"a", "b"}
            # lines are written in the background: all of them must be there before they are judged
            await eventually(lambda: len(weirgate.access.entries()) >= 60)
            entries = weirgate.access.entries()
            assert all(e["reason"] == "" for e in entries)
            assert any(e["retries"] > 0 for e in entries)


async def test_dead_endpoint_is_ejected_without_any_check() -> None:
    dead = free_port()
    async with one_origin() as origin, running(over(dead, origin)) as weirgate:

        async def ejected() -> bool:
            await asked(weirgate, 10)
            return bool((await weirgate.endpoint(dead))["ejected"])

        await eventually(ejected)


async def test_name_is_resolved_by_the_supervisor() -> None:
    async with one_origin() as origin:
        config = over(origin)
        config.pool("all", f"localhost:{origin.port}")
        async with running(config) as weirgate:
            assert await asked(weirgate, 5) == {"origin": 5}
            addresses = (await weirgate.endpoint(origin.port))["addresses"]
            assert f"127.0.0.1:{origin.port}" in addresses
