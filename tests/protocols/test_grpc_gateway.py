"""gRPC: what Weirgate does itself: deadlines, own answers, routes, checks, log and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.support.grpc_app import method
from tests.support.grpc_client import Failure, called, channel, failure
from tests.support.grpc_site import CHECK, Site, grpc_site
from tests.support.http2_client import http2_client
from tests.support.http2_origin import Request, never
from tests.support.http2_servers import grpc_app
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with grpc_site(tmp_path_factory.mktemp("grpc")) as found:
        yield found


@pytest.mark.parametrize(
    "deadline", ["200m", "200000u", "90000000n"], ids=["milli", "micro", "nano"]
)
async def test_a_deadline_is_enforced_when_the_server_ignores_it(site: Site, deadline: str) -> None:
    """By a client that does not watch it itself, so it is Weirgate that answers."""
    path = f"/deaf.Service/{deadline}"
    site.origin.on(path, never)
    async with http2_client(site.weirgate.port()) as client:
        fields = (("content-type", "application/grpc"), ("te", "trailers"))
        reply = await client.ask(
            path,
            *fields,
            ("grpc-timeout", deadline),
            method="POST",
            body=b"\0\0\0\0\0",
            authority="deaf.test",
        )
    assert (reply.status, reply.one("grpc-status")) == (200, "4")
    assert reply.one("weirgate-reason") == "total_timeout"
    (request,) = site.origin.asked(path)
    passed_on = request.one("grpc-timeout")
    assert 0 < _seconds(passed_on) <= 0.2
    async with asyncio.timeout(10):
        await request.ended.wait()
    assert request.reset_code == 8, "CANCEL"
    entry = await site.weirgate.access.of(path)
    assert (entry["grpc_status"], entry["reason"]) == (4, "total_timeout")


def _seconds(timeout: str) -> float:
    units = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
    assert 2 <= len(timeout) <= 9, timeout
    return int(timeout[:-1]) * units[timeout[-1]]


async def test_a_deadline_in_the_middle_of_an_answer(site: Site) -> None:
    async def half(request: Request) -> None:
        request.head(200, ("content-type", "application/grpc"))
        await request.send(b"\0\0\0\0\x01a")
        await never(request)

    site.origin.on("/deaf.Service/Half", half)
    async with http2_client(site.weirgate.port()) as client:
        reply = await client.ask(
            "/deaf.Service/Half",
            ("content-type", "application/grpc"),
            ("grpc-timeout", "300m"),
            method="POST",
            body=b"\0\0\0\0\0",
            authority="deaf.test",
        )
    assert reply.body == b"\0\0\0\0\x01a"
    assert reply.one("grpc-status") == "4" or reply.reset_code is not None
    assert (await site.weirgate.access.of("/deaf.Service/Half"))["reason"] == "total_timeout"


@pytest.mark.parametrize(
    ("authority", "code", "reason"),
    [
        ("nowhere.test", grpc.StatusCode.UNIMPLEMENTED, "no_route"),
        ("dead.test", grpc.StatusCode.UNAVAILABLE, "connect_refused"),
    ],
)
async def test_what_weirgate_answers_itself_is_an_answer_of_grpc(
    site: Site, authority: str, code: grpc.StatusCode, reason: str
) -> None:
    async with site.channel(authority=authority) as to:
        failed = await failure(to, "Unary", b"")
    assert (failed.code, failed.one("weirgate-reason")) == (code, reason), failed


async def test_an_own_answer_is_one_head_and_nothing_else(site: Site) -> None:
    async with http2_client(site.weirgate.port()) as client:
        fields = (("content-type", "application/grpc+proto"), ("te", "trailers"))
        reply = await client.ask("/a.B/C", *fields, method="POST", authority="nowhere.test")
        assert (reply.status, reply.body, reply.trailers) == (200, b"", ())
        assert reply.one("content-type") == "application/grpc+proto"
        assert (reply.one("grpc-status"), reply.one("weirgate-reason")) == ("12", "no_route")
        assert reply.one("grpc-message")
        other = await client.ask("/a.B/C", method="POST", authority="nowhere.test")
        assert (other.status, other.one("grpc-status")) == (404, "")
    entry = await site.weirgate.access.of("/a.B/C")
    assert (entry["grpc_status"], entry["reason"]) == (12, "no_route")


async def test_too_many_calls_are_told_so(site: Site) -> None:
    async with site.channel(authority="limited.test") as to:
        assert (await called(to, "Unary", b"1")).code is grpc.StatusCode.OK
        failed = await failure(to, "Unary", b"2")
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.one("weirgate-reason") == "rate_limited"


async def test_routes_by_service_and_by_method(site: Site) -> None:
    for authority, name, found in [
        ("m.test", "Unary", True),
        ("m.test", "Metadata", False),
        ("s.test", "Unary", True),
        ("s.test", "Metadata", True),
    ]:
        async with site.channel(authority=authority) as to:
            if found:
                assert (await called(to, name, b"")).code is grpc.StatusCode.OK
            else:
                failed = await failure(to, name, b"")
                assert failed.one("weirgate-reason") == "no_route", (authority, name)


async def test_the_log_and_the_metrics_know_the_status_of_calls(site: Site) -> None:
    async def counted(status: str) -> float:
        name = "weirgate_grpc_requests_total"
        return await site.weirgate.metric(name, route="all", grpc_status=status)

    ok, missing = await counted("0"), await counted("12")
    async with site.channel() as to:
        await called(to, "Unary", b"")
        failed: Failure = await failure(to, "NoSuchMethod", b"")
    assert failed.code is grpc.StatusCode.UNIMPLEMENTED

    async def both() -> bool:
        return (await counted("0"), await counted("12")) == (ok + 1, missing + 1)

    await eventually(both, what="both calls in the metrics")
    entry = await site.weirgate.access.of(method("NoSuchMethod"))
    assert (entry["grpc_status"], entry["status"], entry["protocol"]) == (12, 200, "HTTP/2")
    assert isinstance(entry["grpc_status"], int)


async def test_an_endpoint_that_does_not_serve_is_taken_out(site: Site, tmp_path: Path) -> None:
    async with grpc_app(tmp_path) as one, grpc_app(tmp_path) as other:
        config = Configuration().listen("web").route("all", pool="app")
        check = {**CHECK, "grpc": "shop.Cart"}
        config.pool("app", one.port, other.port, protocol="h2c", health=check)
        for app in (one, other):
            await _set_health(app.port, 1)
        async with running(config) as weirgate:
            await _reaches(weirgate, one.port, "up")
            await _reaches(weirgate, other.port, "up")
            await _set_health(one.port, 2)
            await _reaches(weirgate, one.port, "down")
            assert (await weirgate.endpoint(one.port))["last_error"] == "NOT_SERVING"
            async with channel(weirgate.port()) as to:
                told = [(await called(to, "Unary", b"")).code for _ in range(20)]
            assert set(told) == {grpc.StatusCode.OK}
            await _set_health(one.port, 1)
            await _reaches(weirgate, one.port, "up")


async def _set_health(port: int, state: int) -> None:
    wanted = {"service": "shop.Cart", "state": state}
    async with channel(port) as to:
        await called(to, "SetHealth", json.dumps(wanted).encode())


async def _reaches(weirgate: Running, port: int, state: str) -> None:
    async def seen() -> bool:
        return bool((await weirgate.endpoint(port))["state"] == state)

    await eventually(seen, what=f"the endpoint is {state}")


async def test_a_server_that_says_before_that_it_goes_fails_no_call(tmp_path: Path) -> None:
    """Without that, grpcio's server cancels the calls that cross its GOAWAY on the way."""
    async with grpc_app(tmp_path) as stays:
        config = Configuration().listen("web").route("all", pool="app")
        port = free_port()
        check = {**CHECK, "grpc": "shop.Cart"}
        config.pool("app", stays.port, port, protocol="h2c", health=check)
        await _set_health(stays.port, 1)
        done, running_load = 0, True

        async def client(to: grpc.aio.Channel) -> None:
            nonlocal done
            while running_load:
                assert (await called(to, "Unary", b"x" * 1000)).message == b"x" * 1000
                done += 1

        async def more(count: int) -> None:
            mark = done
            await eventually(lambda: done > mark + count, within_s=30, what="further calls")

        async with (
            running(config) as weirgate,
            channel(weirgate.port()) as to,
            asyncio.TaskGroup() as clients,
        ):
            for _ in range(8):
                clients.create_task(client(to))
            for _ in range(3):
                async with grpc_app(tmp_path, port=port):
                    await _set_health(port, 1)
                    await _reaches(weirgate, port, "up")
                    await more(200)
                    await _set_health(port, 2)
                    await _reaches(weirgate, port, "down")
                    await more(50)
                await more(50)
            running_load = False
