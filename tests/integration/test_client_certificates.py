"""Certificates of clients: who is let in, what is told of them, and what a ticket is good for."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import certs, peers
from tests.support.authorities import Authority, Issued
from tests.support.origin import Origin, echoed, one_origin
from tests.support.processes import finished
from tests.support.strict import Response
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

REFUSED = "client_certificate_refused"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SPIFFE = "spiffe://example/billing"


@dataclass(frozen=True)
class Node:
    origin: Origin
    weirgate: Running
    directory: Path
    authority: Authority
    good: Issued
    expired: Issued
    revoked: Issued
    stranger: Issued


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    directory = tmp_path_factory.mktemp("clients")
    authority = Authority()
    names = [x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("billing.example")]
    good = authority.issue(directory, "billing", names=names)
    expired = authority.issue(directory, "expired", expired=True)
    revoked = authority.issue(directory, "revoked")
    stranger = Authority("strangers").issue(directory, "stranger")
    ca = str(authority.write(directory / "ca.pem"))
    crl = str(authority.revoke(directory / "list.crl", revoked))
    tls = {"certificates": [certs.issue(directory, "first.test").yaml()]}
    config = Configuration()
    config.listen("open", tls=tls)
    config.listen("request", tls={**tls, "client": {"ca": ca, "mode": "request"}})
    config.listen("require", tls={**tls, "client": {"ca": ca}})
    config.listen("revoking", tls={**tls, "client": {"ca": ca, "crl": crl}})
    trusting = {**tls, "client": {"ca": ca, "mode": "request"}}
    config.listen("trusting", trusted_proxies=["127.0.0.1"], tls=trusting)
    for name, condition in {
        "subject": {"subject": {"regex": "^CN=billing,O=Example$"}},
        "san": {"san": SPIFFE},
        "fingerprint": {"fingerprint": good.fingerprint.upper()},
        "present": "present",
    }.items():
        match = {"path": f"/{name}", "client_certificate": condition}
        config.route(name, match=match, respond={"body": name})
        config.route(f"not-{name}", match={"path": f"/{name}"}, respond={"status": 403})
    async with one_origin() as origin:
        config.pool("app", origin.port).route("all", pool="app")
        async with running(config) as weirgate:
            yield Node(origin, weirgate, directory, authority, good, expired, revoked, stranger)


def context(shown: Issued | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    own = certs.client_context(version=version)
    if shown is not None:
        own.load_cert_chain(shown.cert, shown.key)
    return own


async def ask(
    weirgate: Running,
    listener: str,
    shown: Issued | None,
    target: str = "/",
    *fields: str,
    version: ssl.TLSVersion | None = None,
) -> Response | None:
    """Ask on a connection of its own; ``None`` = refused, which 1.3 tells behind the handshake."""
    with contextlib.suppress(OSError, AssertionError, asyncio.IncompleteReadError):
        async with connect(
            weirgate.port(listener), tls=context(shown, version), server_name="first.test"
        ) as wire:
            return await wire.exchange(request(target, *fields, host="first.test"))
    return None


async def count(weirgate: Running) -> float:
    return await weirgate.metric("weirgate_reasons_total", reason=REFUSED)


async def counted(weirgate: Running, wanted: float) -> None:
    async def is_counted() -> bool:
        return await count(weirgate) == wanted

    await eventually(is_counted, within_s=5, what=f"{wanted:g} refused")


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_is_let_in(node: Node, version: ssl.TLSVersion) -> None:
    good = {
        ("open", None), ("open", node.stranger), ("request", None), ("request", node.good),
        ("require", node.good), ("require", node.revoked), ("revoking", node.good),
    }  # fmt: skip
    for listener, shown in good:
        assert await ask(node.weirgate, listener, shown, version=version), (listener, shown)
    refused = [
        ("request", node.stranger), ("request", node.expired), ("require", None),
        ("require", node.stranger), ("require", node.expired), ("revoking", node.revoked),
        ("revoking", None),
    ]  # fmt: skip
    for listener, shown in refused:
        before = await count(node.weirgate)
        assert await ask(node.weirgate, listener, shown, version=version) is None, listener
        await counted(node.weirgate, before + 1)


async def test_another_failure_is_no_refused_certificate(node: Node) -> None:
    before = await count(node.weirgate)
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody: it is the client that ends it
    with pytest.raises(ssl.SSLError):
        async with connect(node.weirgate.port("require"), tls=blind, server_name="first.test"):
            pass
    assert await node.weirgate.counted("tls_handshake_failed") >= 1
    assert await count(node.weirgate) == before


async def test_openssl_is_served_with_its_certificate(node: Node) -> None:
    command = [peers.tool("openssl"), "s_client", "-quiet", "-servername", "first.test"]
    command += ["-connect", f"127.0.0.1:{node.weirgate.port('require')}"]
    command += ["-cert", str(node.good.cert), "-key", str(node.good.key)]
    done = await finished(*command, input=request("/san", "Connection: close", host="first.test"))
    assert done.out.startswith(b"HTTP/1.1 200"), done.text
    assert done.out.endswith(b"san")


@pytest.mark.parametrize("name", ["subject", "san", "fingerprint", "present"])
async def test_routes_match_what_a_certificate_says(node: Node, name: str) -> None:
    async def status(listener: str, shown: Issued | None) -> int | None:
        response = await ask(node.weirgate, listener, shown, f"/{name}")
        return None if response is None else response.status

    assert await status("request", node.good) == 200
    assert await status("request", None) == 403
    assert await status("open", node.good) == 403  # nobody has asked for it
    assert await status("require", node.revoked) == (200 if name == "present" else 403)


def forwarded(response: Response | None) -> list[str]:
    assert response is not None
    return echoed(response).all("x-forwarded-client-cert")


async def test_applications_are_told_of_the_certificate(node: Node) -> None:
    line = f'Hash={node.good.fingerprint};Subject="CN=billing,O=Example";URI={SPIFFE}'
    line += ";DNS=billing.example"
    forged = "X-Forwarded-Client-Cert: Hash=forged"
    weirgate = node.weirgate
    assert forwarded(await ask(weirgate, "request", node.good, "/a", forged)) == [line]
    assert forwarded(await ask(weirgate, "request", None, "/a", forged)) == []
    assert forwarded(await ask(weirgate, "open", node.good, "/a", forged)) == []
    # a proxy's word counts, but not against what this connection has shown itself
    assert forwarded(await ask(weirgate, "trusting", None, "/a", forged)) == ["Hash=forged"]
    assert forwarded(await ask(weirgate, "trusting", node.good, "/a", forged)) == [line]


async def test_the_log_names_the_certificate_where_there_is_one(node: Node) -> None:
    assert await ask(node.weirgate, "request", node.good, "/log/with")
    entry = await node.weirgate.access.of("/log/with")
    assert entry["client_certificate"] == "CN=billing,O=Example"
    assert entry["client_fingerprint"] == node.good.fingerprint
    assert await ask(node.weirgate, "request", None, "/log/without")
    entry = await node.weirgate.access.of("/log/without")
    assert not {"client_certificate", "client_fingerprint"} & entry.keys()


class Visitor:
    """A client that keeps its session, and takes it along to wherever it goes."""

    def __init__(self, shown: Issued | None, version: ssl.TLSVersion) -> None:
        self._context = context(shown, version)
        self.session: ssl.SSLSession | None = None

    async def visit(self, port: int) -> bool | None:
        """Ask; return whether the session was resumed, or ``None`` when refused."""
        return await asyncio.to_thread(self._visit, port)

    def _visit(self, port: int) -> bool | None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        try:
            with self._context.wrap_socket(
                raw, server_hostname="first.test", session=self.session
            ) as tls:
                tls.sendall(request("/ticket", "Connection: close", host="first.test"))
                answer = b""
                while data := tls.recv(1 << 16):
                    answer += data
                if not answer.startswith(b"HTTP/1.1 200"):
                    return None
                resumed, self.session = tls.session_reused, tls.session
                return resumed
        except OSError:
            return None


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ticket_resumes_under_the_same_rules_only(
    node: Node, version: ssl.TLSVersion
) -> None:
    port = node.weirgate.port
    nobody = Visitor(None, version)
    assert await nobody.visit(port("request")) is False
    assert await nobody.visit(port("request")) is True
    assert await nobody.visit(port("require")) is None
    for first, second in [("request", "require"), ("require", "revoking"), ("open", "require")]:
        visitor = Visitor(node.good, version)
        assert await visitor.visit(port(first)) is False
        assert await visitor.visit(port(first)) is True
        assert await visitor.visit(port(second)) is False, (first, second)
        assert await visitor.visit(port(second)) is True


async def test_a_resumed_session_knows_its_certificate(node: Node) -> None:
    for version in VERSIONS:
        visitor = Visitor(node.good, version)
        port = node.weirgate.port("require")
        assert [await visitor.visit(port), await visitor.visit(port)] == [False, True]
    told = [entry for entry in node.weirgate.access.entries() if entry["path"] == "/ticket"]
    of_it = [e for e in told if e["listener"] == "require" and "client_certificate" in e]
    assert len(of_it) >= 4


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_list_that_changes_ends_tickets_too(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority = Authority()
    one, other = authority.issue(tmp_path, "one"), authority.issue(tmp_path, "other")
    client = {"ca": str(authority.write(tmp_path / "ca.pem"))}
    crl = authority.revoke(tmp_path / "list.crl")
    tls = {"certificates": [certs.issue(tmp_path, "first.test").yaml()]}
    config = Configuration().listen("web", tls={**tls, "client": {**client, "crl": str(crl)}})
    config.route("all", respond={})
    async with running(config) as weirgate:
        revoked, kept = Visitor(one, version), Visitor(other, version)
        for visitor in (revoked, kept):
            assert await visitor.visit(weirgate.port()) is False
            assert await visitor.visit(weirgate.port()) is True
        crl.write_text("-----BEGIN X509 CRL-----\nhalf")
        await eventually(lambda: "reload refused" in weirgate.log(), within_s=5)
        assert await revoked.visit(weirgate.port()) is True
        authority.revoke(crl, one)

        async def is_refused() -> bool:
            return await revoked.visit(weirgate.port()) is None

        await eventually(is_refused, within_s=10)
        assert await kept.visit(weirgate.port()) is False
        assert await kept.visit(weirgate.port()) is True
        assert len(re.findall("reload refused: ", weirgate.log())) == 1
