"""The check by gRPC, against grpcio's server and against servers that misbehave."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from tests.unit.test_prober_checks import CHECK, serving
from tests.unit.test_prober_checks import Peer as HttpPeer
from weirgate.shared.health.check import Check, Target, Tls, from_pool
from weirgate.shared.health.probe import probe
from weirgate.shared.health.result import Result
from weirgate.shared.testing import free_port

pytestmark = pytest.mark.anyio

GRPC = replace(CHECK, kind="grpc", path="/", service="shop.Cart")
SERVICE = b"\x0a\x09shop.Cart"
HEAD = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)
GOOD = b"\0\0\0\0\x02\x08\x01"
Fields = tuple[tuple[str, str], ...]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


class HealthServer:
    """grpcio's server with a health service written by hand, and what it was asked."""

    def __init__(self, *, service: str = "grpc.health.v1.Health") -> None:
        self.states: dict[bytes, int] = {b"": 1, SERVICE: 1}
        self.asked: list[bytes] = []
        self.metadata: dict[str, str | bytes] = {}
        self.time_left = 0.0
        self.server = grpc.server(ThreadPoolExecutor(2))
        handler: grpc.RpcMethodHandler[bytes, bytes]
        handler = grpc.unary_unary_rpc_method_handler(self.check)
        methods = grpc.method_handlers_generic_handler(service, {"Check": handler})
        self.server.add_generic_rpc_handlers((methods,))

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        self.metadata = {str(key): value for key, value in context.invocation_metadata()}
        self.time_left = context.time_remaining() or 0.0
        if request not in self.states:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        state = self.states[request]
        return bytes([8, state]) if state else b""


@contextlib.contextmanager
def health_server(
    credentials: grpc.ServerCredentials | None = None, **settings: str
) -> Iterator[tuple[HealthServer, str]]:
    health = HealthServer(**settings)
    address = "127.0.0.1:0"
    port = (
        health.server.add_secure_port(address, credentials)
        if credentials
        else health.server.add_insecure_port(address)
    )
    health.server.start()
    try:
        yield health, f"127.0.0.1:{port}"
    finally:
        health.server.stop(None).wait()


async def checked(address: str, check: Check = GRPC) -> Result:
    return await probe(Target("id", address, check), [address])


async def test_a_serving_service_passes_and_sees_a_proper_call() -> None:
    with health_server() as (health, address):
        check = replace(GRPC, host="shop.example", headers=(("X-Key", "1"), ("te", "gzip")))
        assert await checked(address, check) == Result()
        assert health.asked == [SERVICE]
        assert health.metadata["x-key"] == "1"
        assert str(health.metadata["user-agent"]).startswith("weirgate-health")
        assert 0 < health.time_left <= 2


async def test_no_name_asks_about_the_server_as_a_whole() -> None:
    with health_server() as (health, address):
        assert (await checked(address, replace(GRPC, service=""))).passed
        assert health.asked == [b""]


@pytest.mark.parametrize(
    ("state", "error"),
    [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (9, "the unknown state 9")],
)
async def test_any_other_state_fails_by_its_name(state: int, error: str) -> None:
    with health_server() as (health, address):
        health.states[SERVICE] = state
        assert await checked(address) == Result(error)


async def test_a_service_or_a_server_that_does_not_know_the_question_fails() -> None:
    with health_server() as (_, address):
        result = await checked(address, replace(GRPC, service="other.Service"))
        assert result == Result("grpc-status 5 NOT_FOUND: the server does not know the service")
    with health_server(service="other.Health") as (_, address):
        result = await checked(address)
        assert result == Result("grpc-status 12 UNIMPLEMENTED: the server has no health service")


async def test_tls_agrees_on_http2_and_judges_the_certificate() -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("app.example")
    key, chain = leaf.private_key_pem.bytes(), b"".join(p.bytes() for p in leaf.cert_chain_pems)
    with health_server(grpc.ssl_server_credentials([(key, chain)])) as (_, address):
        tls = Tls("app.example", authority.cert_pem.bytes().decode(), verify=True)
        assert await checked(address, replace(GRPC, tls=tls)) == Result()
        other = replace(GRPC, tls=replace(tls, server_name="other.example"))
        assert (await checked(address, other)).error.startswith("certificate: Hostname mismatch")


async def test_a_tls_server_that_speaks_only_http1_fails_by_alpn() -> None:
    authority = trustme.CA()
    tls = replace(GRPC, tls=Tls("app.example", None, verify=False))
    for offered, error in [
        ([], "ALPN: the endpoint chose nothing, wanted h2"),
        (["http/1.1"], "ALPN: the endpoint chose nothing, wanted h2"),
    ]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("app.example").configure_cert(context)
        if offered:
            context.set_alpn_protocols(offered)
        async with serving(HttpPeer(b"HTTP/1.1 200 OK\r\n\r\n"), context) as peer:
            assert await checked(peer.address, tls) == Result(error)
            assert peer.asked == b""


class Script:
    """Answers the first whole call with what a function writes; raw bytes where it returns some."""

    def __init__(self, act: Callable[[h2.connection.H2Connection], bytes | None]) -> None:
        self.act = act
        self.before = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
        http2 = h2.connection.H2Connection(config)
        http2.initiate_connection()
        writer.write(http2.data_to_send())
        ended = False
        while not ended and (data := await reader.read(1 << 16)):
            if data.startswith(b"PROXY "):
                header, data = data.split(b"\r\n", 1)
                self.before += header
            events = http2.receive_data(data)
            ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
        if ended:
            raw = self.act(http2)
            writer.write(http2.data_to_send() + (raw or b""))
            await reader.read()  # the check ends it, or its timeout does
        writer.close()


@contextlib.asynccontextmanager
async def scripted(
    act: Callable[[h2.connection.H2Connection], bytes | None],
) -> AsyncIterator[tuple[Script, str]]:
    script = Script(act)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    async with server:
        yield script, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(
    head: Fields = HEAD, body: bytes = GOOD, trailers: Fields = OK
) -> Callable[[h2.connection.H2Connection], None]:
    def act(http2: h2.connection.H2Connection) -> None:
        http2.send_headers(1, head, end_stream=not body and not trailers)
        if body:
            http2.send_data(1, body, end_stream=not trailers)
        if trailers:
            http2.send_headers(1, trailers, end_stream=True)

    return act


def _goaway(last: int, code: int, text: bytes = b"") -> bytes:
    payload = last.to_bytes(4) + code.to_bytes(4) + text
    return len(payload).to_bytes(3) + b"\x07\0\0\0\0\0" + payload


def _reset(http2: h2.connection.H2Connection) -> None:
    http2.reset_stream(1, 7)


NOT_GRPC = ((":status", "200"), ("content-type", "text/html"))
WRONG = "the answer is not one HealthCheckResponse"


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (answering(), ""),
        (answering(body=b"\0\0\0\0\x09\x12\x03new\x08\x01\x18\x05"), ""),  # fields to come
        (answering(((":status", "503"),), b"", ()), "HTTP status 503"),
        (answering(NOT_GRPC), "not gRPC: content-type 'text/html'"),
        (answering(trailers=()), "the answer has no grpc-status"),
        (answering(trailers=(("grpc-status", "x"),)), "grpc-status is 'x', not a number"),
        (answering(trailers=(("grpc-status", "77"),)), "grpc-status 77 of no known name"),
        (
            answering((*HEAD, ("grpc-status", "14"), ("grpc-message", "too%20busy")), b"", ()),
            "grpc-status 14 UNAVAILABLE: too busy",
        ),
        (answering(body=b""), WRONG),
        (answering(body=b"\x01" + GOOD[1:]), WRONG),  # compressed, which nobody asked for
        (answering(body=GOOD * 2), WRONG),
        (answering(body=b"\0\0\0\0\x02\x08\x81"), WRONG),
        (answering(body=b"\0\0\0\0\x02\x0a\x7f"), WRONG),
        (_reset, "the request was reset: REFUSED_STREAM"),
        (lambda _: _goaway(0, 0), "GOAWAY NO_ERROR"),
        (lambda _: _goaway(1, 11, b"calm down"), "GOAWAY ENHANCE_YOUR_CALM: 'calm down'"),
        (lambda _: b"\0\0\1\0\1\0\0\0\x63x", "not HTTP/2: "),  # DATA of a stream that never was
        (lambda _: b"\xff" * 100, "not HTTP/2: "),
        (lambda _: b"\0\0\x08\x06\0\0\0\0\0pingpong" * 4000, "the answer is longer than 65536"),
    ],
)
async def test_an_answer_is_judged_by_all_that_it_says(
    act: Callable[[h2.connection.H2Connection], bytes | None], error: str
) -> None:
    async with scripted(act) as (_, address):
        result = await checked(address)
        assert result.error.startswith(error), result
        assert result.passed is not bool(error), result


async def test_a_server_that_drains_may_still_answer() -> None:
    def act(http2: h2.connection.H2Connection) -> bytes:
        answering()(http2)
        return _goaway((1 << 31) - 1, 0) + http2.data_to_send()

    async with scripted(act) as (_, address):
        assert await checked(address) == Result()


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
        assert (await checked(peer.address)).error.startswith(error)


async def test_silence_fails_at_the_timeout_and_a_closed_port_at_once() -> None:
    async with scripted(lambda _: None) as (_, address):
        check = replace(GRPC, timeout=0.2)
        assert await checked(address, check) == Result("no answer within 0.2 s")
    assert await checked(f"127.0.0.1:{free_port()}") == Result("connection refused")


async def test_the_port_and_the_proxy_header_of_the_check_are_used() -> None:
    async with scripted(answering()) as (script, address):
        check = replace(GRPC, port=int(address.split(":")[1]), proxy_protocol="v1")
        assert (await checked(f"127.0.0.1:{free_port()}", check)).passed
        assert script.before.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")


def test_the_snapshot_s_check_is_read_whole() -> None:
    health = {"kind": "grpc", "service": "shop.Cart", "host": "shop.example", "headers": {},
              "interval_ms": 1, "timeout_ms": 1, "rise": 1, "fall": 1, "jitter_percent": 0,
              "port": 1}  # fmt: skip
    check = from_pool({"health": health})
    assert check is not None
    assert (check.kind, check.service, check.host) == ("grpc", "shop.Cart", "shop.example")
    assert check.alpn == ("h2",)
