"""Health checks against real servers on loopback, on the loop that the supervisor uses."""

import asyncio
import base64
import contextlib
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from weirgate.shared.health.check import Check, Target, Tls, from_pool
from weirgate.shared.health.probe import probe
from weirgate.shared.health.result import Result
from weirgate.shared.health.tls import public_key
from weirgate.shared.testing import free_port

pytestmark = pytest.mark.anyio

CHECK = Check(
    kind="http",
    interval=5.0,
    timeout=2.0,
    rise=2,
    fall=3,
    jitter=0.1,
    port=None,
    path="/healthz",
    method="GET",
    host=None,
    headers=(),
    expect_status=((200, 399),),
    expect_headers=(),
    expect_body=None,
    tls=None,
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


class Peer:
    """A server that says one thing to whoever asks, and keeps what it was asked."""

    def __init__(self, answer: bytes, *, hang: bool = False) -> None:
        self.answer = answer
        self.hang = hang
        self.asked = b""
        self.connections = 0
        self.port = 0
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            if self.hang:
                await reader.read()
        writer.close()


@contextlib.asynccontextmanager
async def serving(peer: Peer, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    peer.address = f"127.0.0.1:{peer.port}"
    async with server:
        yield peer


async def checked(
    peer: Peer, check: Check = CHECK, context: ssl.SSLContext | None = None
) -> Result:
    async with serving(peer, context):
        return await probe(Target("id", peer.address, check), [peer.address])


async def test_a_good_answer_passes_without_waiting_for_the_end_of_the_connection() -> None:
    peer = Peer(b"HTTP/1.1 204 No Content\r\n\r\n", hang=True)
    assert (await checked(peer)).passed


async def test_the_request_is_complete_and_carries_the_configured_headers() -> None:
    check = replace(CHECK, host="shop.example", headers=(("X-Check", "1"),), method="HEAD")
    peer = Peer(b"HTTP/1.1 200 OK\r\n\r\n")
    assert (await checked(peer, check)).passed
    assert peer.asked == (
        b"HEAD /healthz HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: weirgate-health\r\n"
        b"X-Check: 1\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not an HTTP/1 response: b'SSH-2.0-OpenSSH_9.2'"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not a header line: b'no colon'"),
        (b"HTTP/1.1 200 OK\r\nX: 1", "the connection ended before a response"),
        (b"", "the connection ended before a response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "the answer is longer than 65536 bytes"),
    ],
)
async def test_a_bad_answer_fails_and_says_why(answer: bytes, error: str) -> None:
    assert await checked(Peer(answer)) == Result(error)


async def test_an_interim_response_is_not_the_answer() -> None:
    peer = Peer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 500 Oops\r\n\r\n")
    assert await checked(peer) == Result("status 500")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good",
        b"HTTP/1.1 200 OK\r\n\r\nall good",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nall g\r\n3\r\nood\r\n0\r\n\r\n",
    ],
)
async def test_the_expected_text_is_found_however_the_body_is_framed(answer: bytes) -> None:
    check = replace(CHECK, expect_body=b"all good")
    assert (await checked(Peer(answer), check)).passed
    wrong = replace(CHECK, expect_body=b"all bad")
    assert await checked(Peer(answer), wrong) == Result("the body does not contain 'all bad'")


async def test_a_body_that_ends_early_fails() -> None:
    check = replace(CHECK, expect_body=b"all")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\nall good"
    assert await checked(Peer(answer), check) == Result("the connection ended inside the response")


async def test_expected_headers_must_have_exactly_their_value() -> None:
    check = replace(CHECK, expect_headers=(("X-Role", "primary"),))
    good = Peer(b"HTTP/1.1 200 OK\r\nx-role:  primary \r\n\r\n")
    assert (await checked(good, check)).passed
    bad = Peer(b"HTTP/1.1 200 OK\r\nX-Role: replica\r\n\r\n")
    assert await checked(bad, check) == Result("header X-Role is 'replica', wanted 'primary'")


async def test_silence_fails_at_the_timeout() -> None:
    check = replace(CHECK, timeout=0.05)
    assert await checked(Peer(b"", hang=True), check) == Result("no answer within 0.05 s")


async def test_a_closed_port_is_refused_whatever_the_kind() -> None:
    address = f"127.0.0.1:{free_port()}"
    for kind in ("http", "tcp"):
        target = Target("id", address, replace(CHECK, kind=kind))
        assert await probe(target, [address]) == Result("connection refused")


async def test_a_tcp_check_needs_only_a_connection() -> None:
    async with serving(Peer(b"never sent")) as peer:
        target = Target("id", peer.address, replace(CHECK, kind="tcp"))
        assert (await probe(target, [peer.address])).passed


@pytest.mark.parametrize("kind", ["http", "tcp"])
@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("v1", rb"PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 [1-9]\d* [1-9]\d*\r\n"),
        ("v2", rb"\r\n\r\n\0\r\nQUIT\n \0\0\0"),  # LOCAL
        ("off", b""),
    ],
)
async def test_an_endpoint_that_waits_for_a_proxy_header_gets_one(
    kind: str, version: str, header: bytes
) -> None:
    got = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        check = replace(CHECK, kind=kind, proxy_protocol=version)
        assert (await probe(Target("id", address, check), [address])).passed
        said = re.compile(header + (b"GET /healthz HTTP/1.1\r\n" if kind == "http" else b"$"))
        assert said.match(await got)


async def test_one_good_address_of_a_name_is_enough() -> None:
    async with serving(Peer(b"HTTP/1.1 200 OK\r\n\r\n")) as peer:
        target = Target("id", f"app.example:{peer.port}", CHECK)
        assert (await probe(target, [f"127.0.0.1:{free_port()}", peer.address])).passed
        assert peer.asked.startswith(
            f"GET /healthz HTTP/1.1\r\nHost: app.example:{peer.port}\r\n".encode()
        )


async def test_an_endpoint_without_an_address_fails() -> None:
    assert await probe(Target("id", "gone.example:80", CHECK), []) == Result(
        "the endpoint has no address"
    )


async def test_the_port_of_the_check_replaces_the_endpoint_s() -> None:
    async with serving(Peer(b"HTTP/1.1 200 OK\r\n\r\n")) as peer:
        elsewhere = f"127.0.0.1:{free_port()}"
        target = Target("id", elsewhere, replace(CHECK, port=peer.port))
        assert (await probe(target, [elsewhere])).passed


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("certificate", "verify", "error"),
    [
        ("app.example", True, ""),
        ("other.example", True, "certificate: Hostname mismatch"),
        ("other.example", False, ""),
    ],
)
async def test_tls_is_spoken_and_the_certificate_judged(
    authority: trustme.CA, certificate: str, *, verify: bool, error: str
) -> None:
    tls = Tls("app.example", authority.cert_pem.bytes().decode(), verify=verify)
    peer = Peer(b"HTTP/1.1 200 OK\r\n\r\n")
    result = await checked(peer, replace(CHECK, tls=tls), server_context(authority, certificate))
    assert result.error.startswith(error)
    assert result.passed is not bool(error)


async def test_a_plain_server_fails_a_tls_check() -> None:
    tls = Tls("app.example", None, verify=False)
    result = await checked(Peer(b""), replace(CHECK, tls=tls, timeout=1.0))
    assert not result.passed


def test_the_snapshot_s_check_is_read_whole() -> None:
    health = {
        "kind": "http",
        "path": "/h",
        "method": "GET",
        "host": None,
        "headers": {"B": "2", "A": "1"},
        "expect_status": [[200, 299], [401, 401]],
        "expect_headers": {},
        "expect_body": "ok",
        "interval_ms": 2500,
        "timeout_ms": 150,
        "rise": 1,
        "fall": 4,
        "jitter_percent": 20,
        "port": 81,
    }
    own = {"certificate_pem": "chain", "key_pem": "key"}
    names = {"server_name": "a.example", "ca_pem": None, "verify": True}
    tls = {**names, "certificate": own, "pins": ["x"]}
    assert from_pool({"health": health, "tls": tls}) == Check(
        kind="http",
        interval=2.5,
        timeout=0.15,
        rise=1,
        fall=4,
        jitter=0.2,
        port=81,
        path="/h",
        method="GET",
        host=None,
        headers=(("A", "1"), ("B", "2")),
        expect_status=((200, 299), (401, 401)),
        expect_headers=(),
        expect_body=b"ok",
        tls=Tls(
            "a.example", None, verify=True, certificate_pem="chain", key_pem="key", pins=("x",)
        ),
    )
    assert from_pool({"health": None}) is None


def pin_of(leaf: trustme.LeafCert) -> str:
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = certificate.public_key().public_bytes(serialization.Encoding.DER, form)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.mark.parametrize("kind", ["http", "tcp"])
@pytest.mark.parametrize("key_type", list(trustme.KeyType))
async def test_a_check_wants_one_of_the_pinned_keys(kind: str, key_type: trustme.KeyType) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("app.test", key_type=key_type)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    ca = authority.cert_pem.bytes().decode()
    tls = Tls("app.test", ca, verify=True, pins=("x", pin_of(leaf)))
    check = replace(CHECK, kind=kind, tls=tls)
    assert (await checked(Peer(b"HTTP/1.1 200 OK\r\n\r\n"), check, context)).passed
    other = replace(check, tls=replace(tls, pins=("x",)))
    peer = Peer(b"HTTP/1.1 200 OK\r\n\r\n")
    assert await checked(peer, other, context) == Result("the endpoint's key is none of the pins")
    assert peer.asked == b""


async def test_a_check_shows_the_certificate_of_its_pool() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("app.test").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue_cert("weirgate.test")
    chain = b"".join(pem.bytes() for pem in own.cert_chain_pems).decode()
    tls = Tls("app.test", authority.cert_pem.bytes().decode(), verify=True)
    peer = Peer(b"HTTP/1.1 200 OK\r\n\r\n")
    assert not (await checked(peer, replace(CHECK, tls=tls), context)).passed
    shown = replace(tls, certificate_pem=chain, key_pem=own.private_key_pem.bytes().decode())
    assert (await checked(peer, replace(CHECK, tls=shown), context)).passed
    assert "PRIVATE" not in repr(shown)


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x02\x01\x00", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_certificate_has_no_key(data: bytes) -> None:
    assert public_key(data) == b""
