"""Every row of the HTTP/2 table through one running Weirgate, and the connection after it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conformance.http2_cases import CASES, Case
from tests.support import certs
from tests.support.http2 import GOAWAY, PING, PREFACE, RST_STREAM, Http2, get, http2
from tests.support.origin import Exchange, message, one_origin
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

# Used where a code is that says more (RFC 9113 §7).
GENERAL = "PROTOCOL_ERROR"
# What the connection is asked for where a case must leave it usable.
FOLLOWING = 101


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    directory = tmp_path_factory.mktemp("frames")
    tls = {"certificates": [certs.issue(directory, "weirgate.test").yaml()]}
    released = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await released.wait()
        await exchange.send(message(200))

    async with one_origin() as origin:
        origin.on("/slow", slow)
        config = Configuration().listen("web").listen("secure", tls=tls)
        config.pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate:
            yield weirgate
            released.set()
        assert not origin.malformed


# A bad preface under TLS gets neither GOAWAY nor close_notify: test_h2spec has that row.
SECURE = [case for case in CASES if case.first.startswith(PREFACE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_frames(site: Running, case: Case) -> None:
    async with http2(site.port(), first=case.first) as client:
        await _check(client, case)


@pytest.mark.parametrize("case", SECURE, ids=lambda case: case.id)
async def test_frames_under_tls(site: Running, case: Case) -> None:
    tls = certs.client_context(alpn=("h2",))
    port = site.port("secure")
    async with http2(port, tls=tls, server_name="weirgate.test", first=case.first) as client:
        await _check(client, case)


async def _check(client: Http2, case: Case) -> None:
    await client.send(case.sent)
    if case.outcome == "connection":
        code = await client.goaway()
        assert code is None or code in {*case.codes, GENERAL}, client.frames
        return
    if case.outcome == "stream":
        seen = await client.until(
            lambda f: f.kind == GOAWAY or (f.kind == RST_STREAM and f.stream == case.stream)
        )
        assert seen.code in {*case.codes, GENERAL}
        if seen.kind == GOAWAY:
            await client.goaway()
            return
    elif case.outcome == "ping":
        pong = await client.until(lambda f: f.kind == PING)
        assert pong.payload == case.sent[9:]
    else:
        answer = await client.answer(case.stream)
        assert answer.status in case.statuses, answer
    await client.send(get(FOLLOWING))
    assert (await client.answer(FOLLOWING)).status == 200


def test_the_table_is_as_large_as_promised() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names) >= 95
