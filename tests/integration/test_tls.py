"""TLS on both sides: which certificate, which version, resumption, and what fails how."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import certs, peers
from tests.support.origin import Origin, answer, echoed, one_origin
from tests.support.processes import finished
from tests.support.weirgate import COMMAND, Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Pair:
    origin: Origin
    weirgate: Running


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    directory = tmp_path_factory.mktemp("tls")
    names = ("first.test", "second.test", "*.wild.test")
    certificates = [certs.issue(directory, name).yaml() for name in names]
    config = Configuration().listen("secure", tls={"certificates": certificates})
    config.listen("modern", tls={"certificates": certificates[:1], "minimum_version": "1.3"})
    config.listen("web").route("strict", match={"path": "/strict"}, pool="strict")
    config.route("named", match={"path": "/named"}, pool="named")
    config.route("blind", match={"path": "/blind"}, pool="blind").route("all", pool="plain")
    context = certs.server_context("inner.test")
    async with one_origin() as origin, one_origin(tls=context) as inner:
        authority = str(certs.authority_file(directory))
        config.pool("plain", origin.port)
        config.pool("strict", inner.port, tls={"ca": authority})
        config.pool("named", inner.port, tls={"ca": authority, "server_name": "inner.test"})
        config.pool("blind", inner.port, tls={"danger_skip_verify": True})
        async with running(config) as weirgate:
            yield Pair(origin, weirgate)


def names(certificate: bytes) -> list[str]:
    extension = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return extension.value.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("first.test", "first.test"),
        ("second.test", "second.test"),
        ("SECOND.test", "second.test"),
        ("a.wild.test", "*.wild.test"),
        ("unknown.test", "first.test"),
        (None, "first.test"),
    ],
)
async def test_certificate_is_chosen_by_name(pair: Pair, asked: str | None, shown: str) -> None:
    context = certs.client_context()
    context.check_hostname = False
    async with connect(pair.weirgate.port("secure"), tls=context, server_name=asked or "") as wire:
        tls: ssl.SSLObject = wire.writer.get_extra_info("ssl_object")
        assert names(tls.getpeercert(binary_form=True) or b"") == [shown]
        seen = echoed(await wire.exchange(request(host=asked or "first.test")))
    assert seen.one("x-forwarded-proto") == "https"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_are_spoken(pair: Pair, version: ssl.TLSVersion) -> None:
    context = certs.client_context(version=version, alpn=("http/1.1",))
    port = pair.weirgate.port("secure")
    async with connect(port, tls=context, server_name="first.test") as wire:
        tls: ssl.SSLObject = wire.writer.get_extra_info("ssl_object")
        assert tls.version() == version.name.replace("_", ".")
        assert tls.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            assert (await wire.exchange(request(host="first.test"))).status == 200


async def test_older_versions_are_refused(pair: Pair) -> None:
    context = certs.client_context(version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError):
        async with connect(pair.weirgate.port("modern"), tls=context, server_name="first.test"):
            pass
    assert await pair.weirgate.counted("tls_handshake_failed") >= 1


async def test_plain_bytes_on_a_tls_port_end_the_connection(pair: Pair) -> None:
    async with connect(pair.weirgate.port("secure")) as wire:
        await wire.send(request("/plain"))
        assert b"200" not in (await wire.rest())[:15]
    assert all(r.target != "/plain" for r in pair.origin.requests)


async def test_large_bodies_pass_through_tls(pair: Pair) -> None:
    body = b"0123456789abcdef" * 100_000
    context = certs.client_context()
    port = pair.weirgate.port("secure")
    async with connect(port, tls=context, server_name="first.test") as wire:
        seen = echoed(await wire.exchange(request(method="POST", host="first.test", body=body)))
    assert seen.length == len(body)


def visit(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Ask once, with a session to resume; return the next one, and whether it was resumed."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(raw, server_hostname="first.test", session=session) as tls:
        tls.sendall(request("/", "Connection: close", host="first.test"))
        while tls.recv(1 << 16):
            pass  # TLS 1.3 sends its tickets behind the handshake: read them all
        return tls.session, tls.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed(pair: Pair, version: ssl.TLSVersion) -> None:
    context = certs.client_context(version=version)
    port = pair.weirgate.port("secure")
    session, reused = await asyncio.to_thread(visit, context, port, None)
    assert reused is False
    for _ in range(3):
        session, reused = await asyncio.to_thread(visit, context, port, session)
        assert reused is True


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed_on_whichever_gateway_comes_next(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    tls = {"certificates": [certs.issue(tmp_path, "first.test").yaml()]}
    config = Configuration(workers=4).listen("secure", tls=tls)
    config.route("all", respond={"status": 200})
    context = certs.client_context(version=version)
    async with running(config) as weirgate:

        def visits() -> list[bool | None]:
            session, found = None, []
            for _ in range(100):
                session, reused = visit(context, weirgate.port("secure"), session)
                found.append(reused)
            return found[1:]

        reused = await asyncio.to_thread(visits)
        status = await weirgate.status()
    assert reused.count(True) >= 0.95 * len(reused)
    served = [p["requests_total"] for p in status["processes"] if p["name"].startswith("gateway")]
    assert len([count for count in served if count]) > 1, served


async def test_openssl_resumes(pair: Pair) -> None:
    command = [peers.tool("openssl"), "s_client", "-reconnect", "-tls1_2"]
    command += [
        "-connect",
        f"127.0.0.1:{pair.weirgate.port('secure')}",
        "-servername",
        "first.test",
    ]
    done = await finished(*command)
    assert len(re.findall(r"^Reused, TLSv1\.2", done.text, re.MULTILINE)) == 5, done.text


async def test_close_is_announced(pair: Pair) -> None:
    """Without close_notify a client cannot tell the end of a body from an attack."""
    context = certs.client_context()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    port = pair.weirgate.port("secure")

    def visit() -> bytes:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with context.wrap_socket(
            raw, server_hostname="first.test", suppress_ragged_eofs=False
        ) as tls:
            tls.sendall(request("/", "Connection: close", host="first.test"))
            parts = []
            while data := tls.recv(1 << 16):
                parts.append(data)
            return b"".join(parts)

    assert (await asyncio.to_thread(visit)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/named", "/blind"])
async def test_upstream_tls(pair: Pair, path: str) -> None:
    assert echoed(await get(pair.weirgate.port("web"), path)).target == path


async def test_upstream_certificate_for_another_name_is_refused(pair: Pair) -> None:
    response = await get(pair.weirgate.port("web"), "/strict")
    assert (response.status, response.reason) == (502, "upstream_tls_failed")


async def test_unusable_certificate_is_said_at_the_start(tmp_path: Path) -> None:
    one, other = certs.issue(tmp_path, "one.test"), certs.issue(tmp_path, "other.test")
    mixed = {"cert": str(one.cert), "key": str(other.key)}
    config = Configuration().listen("secure", tls={"certificates": [mixed]})
    config.route("all", respond={}).write(tmp_path / "weirgate.yaml")
    done = await finished(*COMMAND, "check", tmp_path / "weirgate.yaml")
    assert done.code != 0
    assert "WG-C060" in done.text
    assert "weirgate.yaml" in done.text


def _is_past(time: float) -> bool:
    return asyncio.get_running_loop().time() >= time


@pytest.mark.slow
async def test_slow_download_outlasts_the_timeouts_of_the_request_head(tmp_path: Path) -> None:
    size, pieces = 24 * 2**20, 12
    config = Configuration().gateway(timeouts={"request_head": "300ms", "tls_handshake": "500ms"})
    config.listen("secure", tls={"certificates": [certs.issue(tmp_path, "slow.test").yaml()]})
    async with one_origin() as origin:
        origin.on("/big", answer(200, b"x" * size))
        config.pool("plain", origin.port).route("all", pool="plain")
        async with running(config) as weirgate:
            context = certs.client_context()
            context.check_hostname = False
            port = weirgate.port("secure")
            async with connect(port, tls=context, server_name="slow.test") as wire:
                await wire.send(request("/big", "Connection: close", host="slow.test"))
                head = await wire.reader.readuntil(b"\r\n\r\n")
                assert b"200" in head
                received, loop = 0, asyncio.get_running_loop()
                for _ in range(pieces):
                    received += len(await wire.reader.readexactly(size // pieces))
                    # a reader that pauses: together longer than the head's timeout
                    await eventually(partial(_is_past, loop.time() + 0.1))
                assert received == size
