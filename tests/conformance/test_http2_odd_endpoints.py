"""HTTP/2 endpoints that are odd as a whole: their settings, their windows, their silence."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.asking import Ask, ask_1, ask_2
from tests.support.h2_endpoint import (
    Endpoint,
    Stream,
    data,
    endpoints,
    head,
    reset,
)
from tests.support.http2 import (
    WINDOW_UPDATE,
    frame,
    settings,
)
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

TIMES = {"response_head": "1s", "between_bytes": "1s", "total": "8s"}
BODY = b"x" * 1000


@pytest.fixture(params=[ask_1, ask_2], ids=["1.1", "2"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


@asynccontextmanager
async def before(*ready: Endpoint, **gateway: object) -> AsyncIterator[int]:
    """Run Weirgate in front of the endpoints, one pool, one try."""
    async with endpoints(*ready):
        config = Configuration().listen("web").gateway(**gateway)
        ports = [endpoint.port for endpoint in ready]
        retries = len(ports) - 1
        config.pool("all", *ports, protocol="h2c", retries=retries, eject={"max_percent": 0})
        config.route("all", pool="all", timeouts=TIMES)
        async with running(config) as weirgate:
            yield weirgate.port()


async def settle(ask: Ask, port: int) -> None:
    """Have a connection whose settings are known: until then a client goes by the defaults."""
    assert (await ask(port, "/settle"))[::2] == (200, b"good")


async def test_an_endpoint_that_never_sends_settings(ask: Ask) -> None:
    async with before(Endpoint(b"")) as port:
        for _ in range(2):
            assert (await ask(port, "/"))[::2] in {(200, b"good"), (502, b""), (504, b"")}


async def test_an_endpoint_that_says_nothing_at_all(ask: Ask) -> None:
    silent = Endpoint(b"", answers_pings=False)

    async def never(_: Stream) -> None:
        await asyncio.Event().wait()

    silent.otherwise = never
    async with before(silent) as port:
        for _ in range(2):
            assert (await ask(port, "/"))[:2] == (504, "response_timeout")


async def test_an_endpoint_that_takes_no_streams(ask: Ask) -> None:
    closed = Endpoint(settings((3, 0)))

    async def refuse(stream: Stream) -> None:
        await stream.send(reset(stream.id, "REFUSED_STREAM"))

    closed.otherwise = refuse
    async with before(closed) as port:
        for _ in range(3):
            assert (await ask(port, "/"))[:2] == (502, "upstream_closed_early")
    assert len(closed.requests) <= 6


async def test_an_endpoint_that_takes_one_stream_at_a_time(ask: Ask) -> None:
    narrow = Endpoint(settings((3, 1)))

    busy: set[int] = set()

    async def slow(stream: Stream) -> None:
        if id(stream.connection) in busy:
            await stream.send(reset(stream.id, "REFUSED_STREAM"))
            return
        busy.add(id(stream.connection))
        await asyncio.sleep(0.02)
        busy.remove(id(stream.connection))
        await stream.send(head(stream.id), data(stream.id, b"good"))

    narrow.behaviours["/slow"] = slow
    async with before(narrow) as port:
        await settle(ask, port)
        found = await asyncio.gather(*[ask(port, "/slow", "POST") for _ in range(20)])
        assert {(status, body) for status, _, body in found} == {(200, b"good")}


async def test_a_connection_for_one_stream_at_a_time_is_used_again(ask: Ask) -> None:
    narrow = Endpoint(settings((3, 1)))
    async with before(narrow) as port:
        for _ in range(10):
            await settle(ask, port)
        assert len(narrow.connections) == 1


async def test_a_body_through_windows_of_one_byte(ask: Ask) -> None:
    small = Endpoint(settings((4, 1)))

    async def drip(stream: Stream) -> None:
        while not stream.ended.is_set():
            await stream.send(frame(WINDOW_UPDATE, 0, stream.id, struct.pack("!I", 7)))
            await asyncio.sleep(0.001)
        await stream.send(head(stream.id), data(stream.id, bytes(stream.body)))

    small.behaviours["/drip"] = drip
    async with before(small) as port:
        await settle(ask, port)
        assert await ask(port, "/drip", "POST", BODY) == (200, "", BODY)


async def test_a_window_that_never_opens(ask: Ask) -> None:
    shut = Endpoint(settings((4, 0)))

    async def never(_: Stream) -> None:
        await asyncio.Event().wait()

    shut.behaviours["/large"] = never
    async with before(shut) as port:
        for _ in range(2):
            await settle(ask, port)
            status, reason, _ = await ask(port, "/large", "POST", BODY)
            assert (status, reason) == (504, "body_timeout")
        # What has no body is not held up by it.
        assert (await ask(port, "/"))[::2] == (200, b"good")


async def test_a_window_that_never_opens_and_an_answer_all_the_same(ask: Ask) -> None:
    shut = Endpoint(settings((4, 0)))

    async def at_once(stream: Stream) -> None:
        await stream.send(head(stream.id, status="413"), data(stream.id, b"too much"))

    shut.behaviours["/large"] = at_once
    async with before(shut) as port:
        await settle(ask, port)
        for _ in range(2):
            assert await ask(port, "/large", "POST", BODY) == (413, "", b"too much")


async def test_an_endpoint_that_answers_no_ping(ask: Ask) -> None:
    dead = Endpoint(answers_pings=False)

    async def never(_: Stream) -> None:
        await asyncio.Event().wait()

    dead.behaviours["/never"] = never
    http2_settings = {"ping_interval": "1s", "ping_timeout": "1s"}
    async with endpoints(dead):
        config = Configuration().listen("web").gateway(http2=http2_settings)
        config.pool("all", dead.port, protocol="h2c", retries=0)
        config.route("all", pool="all", timeouts={"response_head": "60s"})
        async with running(config) as weirgate:
            status, reason, _ = await ask(weirgate.port(), "/never", "POST")
            assert (status, reason) == (502, "upstream_closed_early")
            assert (await ask(weirgate.port(), "/"))[::2] == (200, b"good")


async def test_a_change_of_windows_below_nothing(ask: Ask) -> None:
    """SETTINGS that make the window negative, and then positive again, in the middle of a body."""
    fickle = Endpoint(settings((4, 500)))

    async def change(stream: Stream) -> None:
        await eventually(lambda: len(stream.body) == 500)
        await stream.send(settings((4, 100)))
        await stream.send(frame(WINDOW_UPDATE, 0, stream.id, struct.pack("!I", 401)))
        await eventually(lambda: len(stream.body) == 501)
        await stream.send(settings((4, 65_535)))
        await stream.ended.wait()
        await stream.send(head(stream.id), data(stream.id, b"%d" % len(stream.body)))

    fickle.behaviours["/change"] = change
    async with before(fickle) as port:
        await settle(ask, port)
        assert await ask(port, "/change", "POST", BODY) == (200, "", b"1000")


async def test_a_failing_endpoint_leaves_the_requests_beside_it_alone(ask: Ask) -> None:
    """Resets are of one stream; the others of the connection go on."""
    mixed = Endpoint()

    async def fail(stream: Stream) -> None:
        await stream.send(reset(stream.id, "INTERNAL_ERROR"))

    async def slow(stream: Stream) -> None:
        await asyncio.sleep(0.1)
        await stream.send(head(stream.id), data(stream.id, b"good"))

    mixed.behaviours["/fail"] = fail
    mixed.behaviours["/slow"] = slow
    async with before(mixed) as port:
        slow_ones = [ask(port, "/slow") for _ in range(5)]
        failing = [ask(port, "/fail", "POST") for _ in range(5)]
        found = await asyncio.gather(*slow_ones, *failing)
    assert {(s, b) for s, _, b in found[:5]} == {(200, b"good")}
    assert {(s, r) for s, r, _ in found[5:]} == {(502, "upstream_closed_early")}
