"""How paths are normalised: what is matched is what the endpoint gets, over either HTTP."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.http2_client import http2_client
from tests.support.origin import Origin, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

#: The path that is sent, and the one that the endpoint gets; None = 400.
KEPT = [
    ("/a%2Fb", "/a%2Fb"),
    ("//a///b", "//a///b"),
    ("/public%2F..%2Fadmin", "/public%2F..%2Fadmin"),
    ("/public/%2e%2E/admin", "/admin"),
    ("/a/../..", None),
]
MERGED = [
    ("//a///b//", "/a/b/"),
    ("//", "/"),
    ("//admin/x", "/admin/x"),
    ("/a%2F%2Fb", "/a/b"),
    ("/public%2F..%2Fadmin/x", "/admin/x"),
    ("/a%252Fb", "/a%252Fb"),
    ("/%2F..%2F..", None),
]
REJECTED = [("/a%2fb", None), ("/a%20b", "/a%20b"), ("//a", "//a")]
POLICIES = {
    "keep": ({}, KEPT),
    "merge": ({"merge_slashes": True, "encoded_slashes": "decode"}, MERGED),
    "reject": ({"encoded_slashes": "reject"}, REJECTED),
}
CASES = [(name, sent, got) for name, (_, rows) in POLICIES.items() for sent, got in rows]


@pytest.fixture(scope="module")
async def origin() -> AsyncIterator[Origin]:
    async with one_origin() as started:
        yield started


@pytest.fixture(scope="module")
async def nodes(origin: Origin) -> AsyncIterator[dict[str, Running]]:
    async with contextlib.AsyncExitStack() as stack:
        started = {}
        for policy, (paths, _) in POLICIES.items():
            config = Configuration().gateway(paths=paths).listen("web")
            config.route("admin", match={"path": "/admin/*"}, respond={"status": 403})
            config.route("all", pool="app").pool("app", origin.port)
            started[policy] = await stack.enter_async_context(running(config))
        yield started


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize(("policy", "sent", "wanted"), CASES)
async def test_a_path(
    nodes: dict[str, Running],
    origin: Origin,
    policy: str,
    sent: str,
    wanted: str | None,
    *,
    http2: bool,
) -> None:
    port = nodes[policy].port()
    before = len(origin.requests)
    reason: str | None
    if http2:
        async with http2_client(port) as client:
            call = await client.ask(sent)
            status, reason = call.status, call.one("weirgate-reason") or None
    else:
        reply = await get(port, sent)
        status, reason = reply.status, reply.one("weirgate-reason")
    seen = [request.target for request in origin.requests[before:]]
    if wanted is None:
        assert (status, reason, seen) == (400, "bad_request_target", [])
    elif wanted == "/admin" or wanted.startswith("/admin/"):
        assert (status, seen) == (403, [])
    else:
        assert (status, seen) == (200, [wanted])
