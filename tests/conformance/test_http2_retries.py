"""Requests that an HTTP/2 endpoint fails: who is asked again, and that nobody is asked twice."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.asking import Ask, ask_1, ask_2
from tests.support.h2_endpoint import Behaviour, Endpoint, Stream, endpoints, goaway, reset
from tests.support.http2 import CODES
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

BODY = b"x" * 1000


@dataclass(frozen=True)
class Site:
    bad: Endpoint
    fine: Endpoint
    port: int


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    bad, fine = Endpoint(), Endpoint()
    async with endpoints(bad, fine):
        config = Configuration().listen("web")
        # A connection for each request: what happens on shared ones is another test.
        config.pool(
            "all",
            *(bad.port, fine.port),
            protocol="h2c",
            balance="round_robin",
            retries=1,
            eject={"max_percent": 0},
            limits={"requests": 1},
        )
        config.route("all", pool="all", timeouts={"response_head": "2s", "total": "5s"})
        async with running(config) as weirgate:
            yield Site(bad, fine, weirgate.port())


@pytest.fixture(params=[ask_1, ask_2], ids=["1.1", "2"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


def refusing(code: str) -> Behaviour:
    async def refuse(stream: Stream) -> None:
        await stream.send(reset(stream.id, code))

    return refuse


async def going(stream: Stream) -> None:
    await stream.send(goaway(0))
    stream.connection.close()


async def gone(stream: Stream) -> None:
    await stream.send(goaway(stream.id))
    stream.connection.close()


async def closing(stream: Stream) -> None:
    stream.connection.close()


RETRIED: dict[str, tuple[Behaviour, bool]] = {
    **{code: (refusing(code), code == "REFUSED_STREAM") for code in CODES},
    "GOAWAY below": (going, True),
    "GOAWAY above": (gone, False),
    "an end": (closing, False),
}


@pytest.mark.parametrize("name", RETRIED)
@pytest.mark.parametrize("body", [b"", BODY], ids=["no body", "a body"])
async def test_a_post_is_sent_again_only_when_nobody_looked_at_it(
    site: Site, ask: Ask, name: str, body: bytes
) -> None:
    behaviour, again = RETRIED[name]
    site.bad.otherwise = behaviour
    before, fine_before = len(site.bad.requests), len(site.fine.requests)
    found = [await ask(site.port, "/", "POST", body) for _ in range(4)]
    bad, fine = len(site.bad.requests) - before, len(site.fine.requests) - fine_before
    assert bad > 0
    if again:
        assert {(s, b) for s, _, b in found} == {(200, b"good")}
        assert fine == 4
    else:
        assert bad + fine == 4
        assert [(s, r) for s, r, _ in found].count((502, "upstream_closed_early")) == bad
        assert [s for s, _, _ in found].count(200) == fine
    assert all(bytes(stream.body) == body for stream in site.fine.requests[fine_before:])


@pytest.mark.parametrize("name", RETRIED)
async def test_a_get_is_sent_elsewhere(site: Site, ask: Ask, name: str) -> None:
    site.bad.otherwise = RETRIED[name][0]
    before = len(site.bad.requests)
    found = [await ask(site.port, "/") for _ in range(4)]
    assert {(s, b) for s, _, b in found} == {(200, b"good")}
    assert 0 < len(site.bad.requests) - before <= 4
