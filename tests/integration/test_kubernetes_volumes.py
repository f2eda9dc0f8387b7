"""ConfigMaps and Secrets that change under a running node: no restart, no reload command."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.support.authorities import Authority
from tests.support.processes import end
from tests.support.volumes import Volume
from tests.support.weirgate import Running, start
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

SEEN_WITHIN_S = 10.0


class Site:
    """A node whose files are volumes: its configuration, parts of it, and a secret."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = Configuration().listen("web").logs(access={"to": "off"})
        self.config.route("main", match={"path": "/"}, respond={"body": "one"})
        self.config.gateway(cookie_secret="file:../secret/cookie_secret")
        self.config.data["include"] = "../parts/*.yaml"
        self.secret = Volume(directory / "secret", {"cookie_secret": "0" * 64})
        self.parts = Volume(directory / "parts", {"a.yaml": "pools: {}\n"})
        self.volume = Volume(directory / "config", self.answering("one"))

    def answering(self, body: str) -> dict[str, str]:
        self.config.data["routes"][0]["respond"]["body"] = body
        return {"weirgate.yaml": self.config.yaml()}

    @contextlib.asynccontextmanager
    async def running(self, *options: str) -> AsyncIterator[Running]:
        file = self.volume.path / "weirgate.yaml"
        process = await start("up", *options, file, directory=self.directory)
        url = f"http://127.0.0.1:{self.config.admin_port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
            node = Running(self.config, self.directory, process, admin)
            try:
                await eventually(node.ready, within_s=20, what="the node", explain=node.log)
                yield node
            finally:
                await end(process)


async def becomes(node: Running, wanted: str, path: str = "/") -> None:
    """Wait until the node answers so."""

    async def seen() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{node.port()}{path}")
        return answer.text == wanted

    await eventually(seen, within_s=SEEN_WITHIN_S, what=wanted, explain=node.log)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


BROKEN = ("listeners: {web: {bond: x}}\n", "listeners: [\n")
PART = "routes: [{{name: b, match: {{path: /b}}, respond: {{body: {}}}}}]\n"


async def refused(node: Running, times: int) -> None:
    def seen() -> bool:
        return node.log().count("reload refused errors=") == times

    await eventually(seen, within_s=SEEN_WITHIN_S, what=f"{times} refusals", explain=node.log)


async def test_whatever_the_configuration_is_made_of_is_followed(site: Site) -> None:
    async with site.running("--watch") as node:
        pids = node.gateways()
        await becomes(node, "one")
        for times, broken in enumerate(BROKEN, 1):
            site.volume.update({"weirgate.yaml": broken})
            await refused(node, times)
            await becomes(node, "one")
        site.volume.update(site.answering("two"))
        await becomes(node, "two")

        site.parts.update({"a.yaml": "pools: {}\n", "b.yaml": "routes: [\n"})
        await refused(node, 3)
        # the file of the refused attempt is not in force, and yet its change is the remedy
        site.parts.update({"b.yaml": PART.format("mended")})
        await becomes(node, "mended", "/b")

        generation = (await node.status())["generation"]
        site.secret.update({"cookie_secret": "1" * 64})

        async def another() -> bool:
            return bool((await node.status())["generation"] > generation)

        await eventually(another, within_s=SEEN_WITHIN_S, what="the new secret", explain=node.log)
        await refused(node, 3)
        assert node.gateways() == pids


async def test_a_renewed_secret_with_certificates_is_shown(site: Site, tmp_path: Path) -> None:
    authority = Authority()

    def pair() -> tuple[dict[str, bytes], int]:
        issued = authority.issue(tmp_path, "leaf", names=[x509.DNSName("shop.test")])
        files = {"tls.crt": issued.cert.read_bytes(), "tls.key": issued.key.read_bytes()}
        return files, issued.certificate.serial_number

    files, first = pair()
    tls = Volume(tmp_path / "tls", files)
    site.config.data["listeners"]["web"]["tls"] = {
        "certificates": [{"cert": "../tls/tls.crt", "key": "../tls/tls.key"}]
    }
    site.volume.update(site.answering("one"))
    async with site.running() as node:  # certificates are watched without being asked to
        assert await serial(node) == first
        for _ in range(2):
            files, renewed = pair()
            tls.update(files)

            async def shown(wanted: int = renewed) -> bool:
                return await serial(node) == wanted

            await eventually(shown, within_s=SEEN_WITHIN_S, what="the renewed certificate")
        # both files of the pair came in one step: at no time was there half of it
        assert "reload refused" not in node.log()


async def serial(node: Running) -> int:
    """Return the serial number of the certificate that is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", node.port(), ssl=context)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_nothing_else_is_watched_unless_that_is_asked_for(site: Site, tmp_path: Path) -> None:
    lists = Volume(tmp_path / "lists", {"deny.txt": "192.0.2.0/24\n"})
    site.config.data["listeners"]["web"]["deny"] = "file:../lists/deny.txt"
    site.volume.update(site.answering("one"))
    async with site.running() as node:
        site.volume.update(site.answering("two"))
        site.secret.update({"cookie_secret": "1" * 64})
        lists.update({"deny.txt": "198.51.100.0/24\n"})
        # the list alone is why everything is read again
        await becomes(node, "two")
        (line,) = (line for line in node.log().splitlines() if "files have changed" in line)
        assert line.endswith("lists/deny.txt count=1")
