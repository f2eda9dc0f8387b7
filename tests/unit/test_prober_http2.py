"""The check by HTTP in pools that speak HTTP/2, against real servers and those that misbehave."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import h2.connection
import pytest

from tests.support.certs import authority, issue, server_context
from tests.support.h2_endpoint import head
from tests.support.http2_origin import Http2Origin, Request, http2_origin, reply
from tests.support.http2_servers import hypercorn, nghttpd
from tests.unit.test_prober_checks import CHECK, serving
from tests.unit.test_prober_checks import Peer as HttpPeer
from tests.unit.test_prober_grpc import scripted
from weirgate.shared.health.check import Check, Target, Tls, from_pool
from weirgate.shared.health.probe import probe
from weirgate.shared.health.result import Result

pytestmark = pytest.mark.anyio

NAME = "app.example"
H2C = replace(CHECK, path="/hello", protocol="h2c")
WITH_BODY = replace(H2C, expect_body=b"hell")
Fields = tuple[tuple[str, str], ...]
Act = Callable[[h2.connection.H2Connection], bytes | None]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def over_tls(protocol: str, check: Check = WITH_BODY) -> Check:
    tls = Tls(NAME, authority().cert_pem.bytes().decode(), verify=True)
    return replace(check, protocol=protocol, tls=tls)


async def checked(port: int, check: Check = H2C) -> Result:
    address = f"127.0.0.1:{port}"
    return await probe(Target("id", address, check), [address])


@contextlib.asynccontextmanager
async def origin(tls: ssl.SSLContext | None = None) -> AsyncIterator[Http2Origin]:
    async with http2_origin(tls) as server:
        yield server.on("/hello", reply(200, b"hello", ("x-role", "primary")))


async def test_a_server_that_speaks_only_http2_in_cleartext_is_asked_in_it(tmp_path: Path) -> None:
    async with hypercorn(tmp_path) as server:
        assert await checked(server.port) == Result()
        assert await checked(server.port, WITH_BODY) == Result()
        assert await checked(server.port, replace(H2C, path="/204")) == Result()
        assert await checked(server.port, replace(H2C, method="HEAD")) == Result()
        nothing = replace(WITH_BODY, method="HEAD")
        assert await checked(server.port, nothing) == Result("the body does not contain 'hell'")
    async with nghttpd(tmp_path) as server:
        assert await checked(server.port, WITH_BODY) == Result()
        assert await checked(server.port, replace(H2C, path="/none")) == Result("status 404")
        before = await checked(server.port, replace(WITH_BODY, protocol="http1"))
        assert not before.passed


@pytest.mark.parametrize("protocol", ["h2", "auto", "http1"])
async def test_over_tls_both_sides_agree_on_the_version(tmp_path: Path, protocol: str) -> None:
    async with hypercorn(tmp_path, issue(tmp_path, NAME)) as server:
        assert await checked(server.port, over_tls(protocol)) == Result()


async def test_an_endpoint_that_has_only_http2_is_asked_in_it_by_auto() -> None:
    async with origin(server_context(NAME)) as server:
        for protocol in ("auto", "h2"):
            assert await checked(server.port, over_tls(protocol)) == Result()
        assert [r.one(":scheme") for r in server.requests] == ["https", "https"]
        assert not (await checked(server.port, over_tls("http1"))).passed


@pytest.mark.parametrize("offered", [[], ["http/1.1"]])
async def test_an_endpoint_without_http2_is_asked_by_auto_and_refused_by_h2(
    offered: list[str],
) -> None:
    context = server_context(NAME)
    if offered:
        context.set_alpn_protocols(offered)
    async with serving(HttpPeer(b"HTTP/1.1 200 OK\r\n\r\nhello"), context) as peer:
        assert await checked(peer.port, over_tls("auto")) == Result()
        assert peer.asked.startswith(b"GET /hello HTTP/1.1\r\n")
        peer.asked = b""
        refusal = Result("ALPN: the endpoint chose nothing, wanted h2")
        assert await checked(peer.port, over_tls("h2")) == refusal
        assert peer.asked == b""


async def test_the_request_is_complete_and_carries_what_http2_has_a_place_for() -> None:
    own = (("X-Check", "1"), ("Connection", "close"), ("Host", "no"), ("TE", "gzip"))
    async with origin() as server:
        check = replace(H2C, host="shop.example", headers=own, path="/hello?a=b", method="DELETE")
        assert await checked(server.port, check) == Result()
        (request,) = server.requests
        assert request.headers == (
            (":method", "DELETE"),
            (":scheme", "http"),
            (":path", "/hello?a=b"),
            (":authority", "shop.example"),
            ("user-agent", "weirgate-health"),
            ("x-check", "1"),
        )
        assert request.ended.is_set()
        agent = replace(H2C, headers=(("User-Agent", "mine"),))
        assert await checked(server.port, agent) == Result()
        assert server.requests[1].one("user-agent") == "mine"
        assert server.requests[1].one(":authority") == f"127.0.0.1:{server.port}"


async def test_headers_and_status_are_judged_as_those_of_http1() -> None:
    async with origin() as server:
        server.on("/busy", reply(503))
        good = replace(H2C, expect_headers=(("X-Role", "primary"),))
        assert await checked(server.port, good) == Result()
        bad = replace(H2C, expect_headers=(("X-Role", "replica"),))
        error = "header X-Role is 'primary', wanted 'replica'"
        assert await checked(server.port, bad) == Result(error)
        assert await checked(server.port, replace(H2C, path="/busy")) == Result("status 503")
        wanted = replace(H2C, path="/busy", expect_status=((503, 503),))
        assert await checked(server.port, wanted) == Result()


async def test_a_good_head_passes_without_waiting_for_the_body() -> None:
    async def begin(request: Request) -> None:
        request.head(103, ("link", "</a>"))
        request.head(200)
        await request.connection.lost.wait()

    async with origin() as server:
        server.on("/hello", begin)
        assert await checked(server.port) == Result()
        (connection,) = server.connections
        await connection.lost.wait()
        assert connection.goaway is not None
        waits = replace(WITH_BODY, timeout=0.2)
        assert await checked(server.port, waits) == Result("no answer within 0.2 s")


async def test_a_body_of_many_frames_is_put_together_and_has_a_bound() -> None:
    async def send(request: Request) -> None:
        size = int(request.one(":path").partition("?")[2])
        request.head(200)
        await request.send(b"x" * size + b"end", ends=True)

    async with origin() as server:
        server.on("/hello", send)
        for size, error in [(65_300, ""), (65_533, "too long"), (100_000, "too long")]:
            check = replace(H2C, path=f"/hello?{size}", expect_body=b"xend")
            wanted = Result("the answer is longer than 65536 bytes") if error else Result()
            assert await checked(server.port, check) == wanted
        assert await checked(server.port, replace(H2C, path="/hello?100000")) == Result()


async def test_trailers_are_no_headers() -> None:
    def act(http2: h2.connection.H2Connection) -> None:
        http2.send_headers(1, ((":status", "200"),))
        http2.send_headers(1, (("x-role", "primary"),), end_stream=True)

    check = replace(WITH_BODY, expect_body=None, expect_headers=(("x-role", "primary"),))
    async with scripted(act) as (_, address):
        result = await probe(Target("id", address, check), [address])
        assert result == Result("header x-role is None, wanted 'primary'")


def answering(head: Fields, body: bytes = b"") -> Act:
    def act(http2: h2.connection.H2Connection) -> None:
        http2.send_headers(1, head, end_stream=not body)
        if body:
            http2.send_data(1, body, end_stream=True)

    return act


def _reset(http2: h2.connection.H2Connection) -> None:
    http2.send_headers(1, ((":status", "200"),))
    http2.reset_stream(1, 11)


def _garbage(http2: h2.connection.H2Connection) -> bytes:
    http2.send_headers(1, ((":status", "200"),))
    return http2.data_to_send() + b"\xff" * 100


OK = (":status", "200")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (answering((OK,), b"hello"), ""),
        (answering(((":status", "2xx"),)), "not HTTP/2: the status '2xx'"),
        (answering((("x-role", "primary"),)), "not HTTP/2: "),
        (lambda _: head(1, ("X-Role", "primary")), "not HTTP/2: "),
        (lambda _: head(1, ("connection", "close")), "not HTTP/2: "),
        (answering((OK, ("content-length", "9")), b"hello"), "not HTTP/2: "),
        (_reset, "the request was reset: ENHANCE_YOUR_CALM"),
        (_garbage, "not HTTP/2: "),
        (lambda _: b"\0\0\x08\x07\0\0\0\0\0" + bytes(8), "GOAWAY NO_ERROR"),
        (lambda _: b"\0\0\x08\x06\0\0\0\0\0pingpong" * 4000, "the answer is longer than 65536"),
    ],
)
async def test_an_answer_that_is_not_http2_fails_and_says_why(act: Act, error: str) -> None:
    async with scripted(act) as (_, address):
        result = await probe(Target("id", address, WITH_BODY), [address])
        assert result.error.startswith(error), result
        assert result.passed is not bool(error), result


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not HTTP/2: b'HTTP/1.1 400 Bad Request'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/2: b'SSH-2.0-OpenSSH_9.2"),
        (b"", "the connection ended before the answer did"),
    ],
)
async def test_a_server_of_another_protocol_fails(said: bytes, error: str) -> None:
    async with serving(HttpPeer(said)) as peer:
        assert (await checked(peer.port)).error.startswith(error)


async def test_an_endpoint_that_waits_for_a_proxy_header_gets_one() -> None:
    async with scripted(answering((OK,))) as (script, address):
        check = replace(H2C, proxy_protocol="v1")
        assert await probe(Target("id", address, check), [address]) == Result()
        assert script.before.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")


def test_the_pool_s_protocol_says_what_is_offered() -> None:
    times = {"interval_ms": 1, "timeout_ms": 1, "rise": 1, "fall": 1, "jitter_percent": 0}
    offers = {}
    for kind in ("http", "tcp", "grpc"):
        for protocol in ("http1", "h2", "h2c", "auto"):
            check = from_pool({"health": {"kind": kind, **times}, "protocol": protocol})
            assert check is not None
            offers[kind, protocol] = check.alpn
    assert {k: v for k, v in offers.items() if v} == {
        ("http", "h2"): ("h2",),
        ("http", "auto"): ("h2", "http/1.1"),
        **{("grpc", protocol): ("h2",) for protocol in ("http1", "h2", "h2c", "auto")},
    }
