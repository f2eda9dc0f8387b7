"""Certificates of listeners: kinds of keys, stapled responses, directories, replacement."""

import asyncio
import itertools
import random
import re
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import certs, peers
from tests.support.authorities import Authority, Issued, new_key, put
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

NAMES = 1000
REPLACED_WITHIN_S = 60.0
SEEN_WITHIN_S = 10.0


def named(name: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name)]


async def shown(weirgate: Running, name: str) -> x509.Certificate:
    """Return the certificate that a client is shown which asks for a name."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    async with connect(weirgate.port(), tls=blind, server_name=name) as wire:
        session: ssl.SSLObject = wire.writer.get_extra_info("ssl_object")
        return x509.load_der_x509_certificate(session.getpeercert(binary_form=True) or b"")


async def is_shown(weirgate: Running, name: str, issued: Issued) -> bool:
    return await shown(weirgate, name) == issued.certificate


async def s_client(weirgate: Running, *options: str) -> str:
    command = [peers.tool("openssl"), "s_client", "-servername", "both.test"]
    command += ["-connect", f"127.0.0.1:{weirgate.port()}", *options]
    return (await finished(*command)).text


async def test_a_client_gets_the_kind_of_key_that_it_knows(tmp_path: Path) -> None:
    authority = Authority()
    pairs = []
    for kind in ("rsa", "ecdsa"):
        directory = tmp_path / kind
        directory.mkdir()
        pairs.append(authority.issue(directory, "both", names=named("both.test"), kind=kind))
    config = Configuration().listen("web", tls={"certificates": [p.yaml() for p in pairs]})
    async with running(config.route("all", respond={})) as weirgate:
        rsa = ("-sigalgs", "RSA-PSS+SHA256:RSA+SHA256")
        for version in ("-tls1_2", "-tls1_3"):
            assert "signature type: ECDSA" in await s_client(weirgate, version)
            text = await s_client(weirgate, version, *rsa)
            assert re.search("signature type: RSA", text), text
        # TLS 1.2 says it by the cipher suites as well
        text = await s_client(weirgate, "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
        assert "ECDHE-RSA-AES128-GCM-SHA256" in text
        assert re.search("signature type: RSA", text), text
        # the default certificate has both kinds, too
        for options, kind in (((), "ECDSA"), (rsa, "RSA")):
            text = await s_client(weirgate, "-servername", "unknown.test", *options)
            assert re.search(f"signature type: {kind}", text), text


async def test_an_ocsp_response_is_stapled_and_renewed(tmp_path: Path) -> None:
    authority = Authority()
    issued = authority.issue(tmp_path, "both", names=named("both.test"))
    response = authority.respond(tmp_path / "both.ocsp", issued)
    entry = {**issued.yaml(), "ocsp": str(response)}
    config = Configuration().listen("web", tls={"certificates": [entry]})
    async with running(config.route("all", respond={})) as weirgate:
        text = await s_client(weirgate, "-status")
        assert "OCSP Response Status: successful" in text
        assert "Cert Status: good" in text
        until = re.findall(r"Next Update: (.*)", text)
        authority.respond(response, issued, days=5)

        async def is_renewed() -> bool:
            text = await s_client(weirgate, "-status")
            return re.findall(r"Next Update: (.*)", text) not in ([], until)

        await eventually(is_renewed, within_s=SEEN_WITHIN_S)


async def test_the_modern_profile_speaks_one_version(tmp_path: Path) -> None:
    tls = {"certificates": [certs.issue(tmp_path, "first.test").yaml()], "profile": "modern"}
    async with running(Configuration().listen("web", tls=tls).route("all", respond={})) as weirgate:
        assert "TLSv1.3" in await s_client(weirgate)
        with pytest.raises(ssl.SSLError):
            async with connect(
                weirgate.port(),
                tls=certs.client_context(version=ssl.TLSVersion.TLSv1_2),
                server_name="first.test",
            ):
                pass


async def test_a_directory_is_followed(tmp_path: Path) -> None:
    authority, directory = Authority(), tmp_path / "certs"
    directory.mkdir()
    first = authority.issue(directory, "a", names=named("a.test"))
    config = Configuration().listen("web", tls={"certificates": [{"directory": "certs"}]})
    config.route("all", respond={})
    async with running(config, directory=tmp_path) as weirgate:
        assert await is_shown(weirgate, "a.test", first)
        assert await is_shown(weirgate, "b.test", first)
        second = authority.issue(directory, "b", names=named("b.test"))
        await eventually(lambda: is_shown(weirgate, "b.test", second), within_s=SEEN_WITHIN_S)

        renewed = authority.issue(directory, "a", names=named("a.test"))
        await eventually(lambda: is_shown(weirgate, "a.test", renewed), within_s=SEEN_WITHIN_S)

        # half written, in place: nothing changes, and it is said once
        whole = second.cert.read_bytes()
        second.cert.write_bytes(whole[: len(whole) // 2])
        await eventually(lambda: "b.pem" in refusals(weirgate), within_s=SEEN_WITHIN_S)
        assert await is_shown(weirgate, "b.test", second)
        third = authority.issue(tmp_path, "b", names=named("b.test"))
        second.cert.write_bytes(third.cert.read_bytes())  # and now not its key's
        await eventually(lambda: "cannot be used" in refusals(weirgate), within_s=SEEN_WITHIN_S)
        assert await is_shown(weirgate, "b.test", second)
        put(second.key, third.key.read_bytes())
        await eventually(lambda: is_shown(weirgate, "b.test", third), within_s=SEEN_WITHIN_S)
        assert refusals(weirgate).count("\n") == 2

        # a new one that comes in two steps, which the configuration in force does not know of
        key = new_key()
        (directory / "c.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        (directory / "c.key").write_text("-----BEGIN PRIVATE KEY-----\n")
        await eventually(lambda: "c.pem" in refusals(weirgate), within_s=SEEN_WITHIN_S)
        fourth = authority.issue(tmp_path, "c", names=named("c.test"), key=key)
        (directory / "c.key").write_bytes(fourth.key.read_bytes())
        (directory / "c.pem").write_bytes(fourth.cert.read_bytes())
        await eventually(lambda: is_shown(weirgate, "c.test", fourth), within_s=SEEN_WITHIN_S)

        for path in (second.cert, second.key):
            path.unlink()
        await eventually(lambda: is_shown(weirgate, "b.test", renewed), within_s=SEEN_WITHIN_S)
        shown_snapshot = (await weirgate.admin.get("/snapshot")).text
        assert "PRIVATE KEY" not in shown_snapshot
        assert "CERTIFICATE" in shown_snapshot


def refusals(weirgate: Running) -> str:
    lines = (line for line in weirgate.log().splitlines() if "reload refused: " in line)
    return "".join(line + "\n" for line in lines)


class Load:
    """Clients that shake hands without a pause; every name must be served all the time."""

    def __init__(self, weirgate: Running, names: list[str], trust: ssl.SSLContext) -> None:
        self._weirgate, self._names, self._trust = weirgate, names, trust
        self.done = 0
        self.failures: list[str] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(self._visit(random.Random(seed)))

    def stop(self) -> None:
        self._stop.set()

    async def _visit(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            name = chance.choice(self._names)
            try:
                async with connect(self._weirgate.port(), tls=self._trust, server_name=name) as w:
                    answer = await w.exchange(request("/", "Connection: close", host=name))
                    assert answer.status == 200
            except (OSError, AssertionError) as error:
                self.failures.append(f"{name}: {error!r}")
            self.done += 1


@pytest.mark.slow
async def test_a_thousand_certificates_are_replaced_under_load(tmp_path: Path) -> None:
    authority, directory = Authority(), tmp_path / "certs"
    directory.mkdir()
    names = [f"n{number:04}.test" for number in range(NAMES)]

    def issue(name: str) -> Issued:
        return authority.issue(directory, name, names=named(name))

    first = {name: await asyncio.to_thread(issue, name) for name in names}
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(authority.write(tmp_path / "ca.pem"))
    config = Configuration(workers=2)
    config.listen("web", tls={"certificates": [{"directory": "certs"}]})
    config.route("all", respond={})
    async with running(config, directory=tmp_path) as weirgate:
        load = Load(weirgate, names, trust)
        running_load = asyncio.create_task(load.run())
        second = {name: await asyncio.to_thread(issue, name) for name in names}

        async def is_replaced() -> bool:
            return await is_shown(weirgate, names[-1], second[names[-1]])

        await eventually(is_replaced, within_s=REPLACED_WITHIN_S)
        for name, issued in itertools.islice(second.items(), 0, None, 10):
            assert issued.certificate != first[name].certificate
            assert await is_shown(weirgate, name, issued), name
        load.stop()
        await running_load
        assert load.failures == []
        assert load.done > 100
        # one by one they came, but not one by one were they reloaded
        applied = await weirgate.metric("weirgate_reload_total", result="applied")
        assert 1 <= applied <= 20


async def test_keys_are_logged_where_that_is_asked_for(tmp_path: Path) -> None:
    tls = {"certificates": [certs.issue(tmp_path, "first.test").yaml()]}
    config = Configuration().listen("web", tls=tls).route("all", respond={})
    config.gateway(danger_key_log="keys.log")
    async with running(config, directory=tmp_path) as weirgate:
        assert "WG-C114" in weirgate.log()
        await s_client(weirgate, "-tls1_3")
        await s_client(weirgate, "-tls1_2")
    path = tmp_path / "keys.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    labels = {line.split()[0] for line in path.read_text().splitlines()}
    assert {"CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    assert all(re.fullmatch(r"[A-Z_0-9]+ [0-9a-f]{64} [0-9a-f]{64,96}", line)
               for line in path.read_text().splitlines())  # fmt: skip


async def test_no_key_is_logged_otherwise(tmp_path: Path) -> None:
    tls = {"certificates": [certs.issue(tmp_path, "first.test").yaml()]}
    config = Configuration().listen("web", tls=tls).route("all", respond={})
    log = tmp_path / "keys.log"
    async with running(config, env={"SSLKEYLOGFILE": str(log)}) as weirgate:
        await s_client(weirgate)
    assert not log.exists()
