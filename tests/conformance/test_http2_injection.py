"""Requests that cross versions: nothing is passed on malformed, and one never becomes two."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.conformance.injection_cases import FIELDS, Injection
from tests.conformance.injection_targets import TARGETS
from tests.support.http2 import GOAWAY, RST_STREAM, Http2, get, http2
from tests.support.origin import Origin, one_origin
from tests.support.weirgate import running
from tests.support.wire import get as get_1
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Pair:
    origin: Origin
    port: int


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    config = Configuration().listen("web")
    async with one_origin() as origin:
        config.pool("all", origin.port, retries=0).route("all", pool="all")
        async with running(config) as weirgate:
            yield Pair(origin, weirgate.port())


@pytest.mark.parametrize("case", [*FIELDS, *TARGETS], ids=lambda case: case.id)
async def test_one_request_or_none(pair: Pair, case: Injection) -> None:
    origin = pair.origin
    heads, malformed = len(origin.heads), len(origin.malformed)
    async with http2(pair.port) as client:
        await client.send(case.sent)
        status = await _status(client)
        if status is not None:
            await client.send(get(3, "/after"))
            assert (await client.answer(3)).status == 200
    # What was sent before has arrived by now.
    assert (await get_1(pair.port, "/sentinel")).status == 200
    assert origin.malformed[malformed:] == []
    seen = [h for h in origin.heads[heads:] if h.target not in {"/after", "/sentinel"}]
    assert all("smuggled" not in head.target for head in seen)
    assert len(seen) <= 1
    if case.passed is None:
        return
    if not case.passed:
        assert status is None or 400 <= status < 502, status
        complete = [r for r in origin.requests if r.head in {head.raw for head in seen}]
        assert len(complete) == 0, [r.head for r in complete]
        return
    assert status == 200
    (head,) = seen
    request = next(r for r in reversed(origin.requests) if r.head == head.raw)
    assert (request.target, request.body) == (case.target, case.body)
    assert {name.lower() for name, _ in request.trailers} <= {"x-t"}
    for name, value in case.fields:
        assert request.all(name) == [value]


async def _status(client: Http2) -> int | None:
    """Return the answer's status; None = reset, or the connection ended."""
    ended = await client.until(
        lambda f: f.kind in {GOAWAY, RST_STREAM} or bool(f.kind in {0, 1} and f.flags & 1)
    )
    if ended.kind == GOAWAY:
        return None
    found = await client.answer(1)
    return found.status or -1 if found.reset is None else 400
