"""SMTP: the server speaks first, and TLS begins in the middle; exim, swaks, curl and openssl."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import certs, services
from tests.support.peers import tool
from tests.support.processes import Finished, finished
from tests.support.services import MailServer
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NAME = "mail.test"
ATTACHED_BYTES = 2_000_000


@dataclass(frozen=True)
class Site:
    weirgate: Running
    server: MailServer
    authority: Path

    @property
    def port(self) -> str:
        return str(self.weirgate.port("mail"))

    async def delivered(self, mark: str) -> str:
        """Wait until a message that has this mark in it was delivered; return all there are."""
        return await eventually(
            lambda: self.server.mailbox() if mark in self.server.mailbox() else None,
            what=f"{mark} in the mailbox",
        )


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    authority = certs.authority_file(tmp_path_factory.mktemp("smtp"))
    async with services.exim(NAME) as server:
        config = Configuration().listen("mail", protocol="tcp", pool="mail")
        async with running(config.pool("mail", server.peer.port)) as weirgate:
            yield Site(weirgate, server, authority)


async def _swaks(site: Site, *arguments: str) -> Finished:
    where = ("--server", "127.0.0.1", "--port", site.port, "--timeout", "10")
    who = ("--from", "a@client.test", "--to", f"b@{NAME}")
    done = await finished(tool("swaks"), *where, *who, *arguments, within_s=30)
    assert done.code == 0, done.text
    return done


async def test_swaks_in_the_clear_is_greeted_at_once(site: Site) -> None:
    done = await _swaks(site, "--body", "mark-clear")
    assert f"<-  220 {NAME} ESMTP Exim" in done.text
    assert "mark-clear" in await site.delivered("mark-clear")


async def test_swaks_with_starttls_and_a_large_message(site: Site, tmp_path: Path) -> None:
    body = tmp_path / "body"
    line = "0123456789" * 7 + "\n"
    body.write_text(line * (ATTACHED_BYTES // len(line)) + "mark-tls\n")
    await _swaks(site, "--tls", "--body", f"@{body}", "--hide-all")
    mailbox = await site.delivered("mark-tls")
    assert "with esmtps" in mailbox
    assert mailbox.count(line) == ATTACHED_BYTES // len(line)


async def test_curl_with_starttls_and_a_verified_name(site: Site, tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text("Subject: hello\n\nmark-curl\n")
    who = ("--mail-from", "a@client.test", "--mail-rcpt", f"b@{NAME}", "-T", message)
    trust = ("--ssl-reqd", "--cacert", site.authority, "--max-time", "20")
    resolve = ("--resolve", f"{NAME}:{site.port}:127.0.0.1")
    url = f"smtp://{NAME}:{site.port}/client.test"
    done = await finished(tool("curl"), "-sS", *resolve, *trust, *who, url)
    assert done.code == 0, done.text
    assert "mark-curl" in await site.delivered("mark-curl")


async def test_openssl_sees_the_server_s_own_certificate(site: Site) -> None:
    where = ("-connect", f"127.0.0.1:{site.port}", "-starttls", "smtp", "-crlf", "-quiet")
    trust = ("-CAfile", site.authority, "-verify_return_error", "-verify_hostname", NAME)
    talk = b"EHLO client.test\nNOOP\nQUIT\n"
    done = await finished(tool("openssl"), "s_client", *where, *trust, input=talk)
    assert done.code == 0, done.text
    assert b"221 mail.test closing connection" in done.out
