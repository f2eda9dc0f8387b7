"""What scanners say of a listener's TLS: testssl.sh, and sslyze where it is installed."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.support import certs
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

#: Protocols, ciphers, forward secrecy, vulnerabilities; certificates are the operator's.
PARTS = ("--protocols", "--std", "--fs", "--vulnerable", "--server-defaults")
HARMLESS = {"OK", "INFO", "LOW"}
#: What is said of certificates and names, and of the scanner's own openssl.
NOT_OURS = ("cert_", "DNS_", "engine_problem")
#: What the scanner says where it was too slow for itself: of a ticket that it did not wait for.
NOT_LOOKED_AT = "check failed because of connect problem"


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(300):
        said, _ = await process.communicate()
    return said.decode(errors="replace")


@pytest.mark.skipif(shutil.which("testssl") is None, reason="testssl.sh is not installed")
@pytest.mark.timeout(320)
async def test_testssl_finds_nothing_above_low_on_modern(tmp_path: Path) -> None:
    tls = {"profile": "modern", "certificates": [certs.issue(tmp_path, "weirgate.test").yaml()]}
    config = Configuration().listen("web", tls=tls).route("all", respond={"status": 200})
    async with running(config) as weirgate:
        report = tmp_path / "report.json"
        options = ("--quiet", "--color", "0", "--warnings", "off", "--jsonfile", str(report))
        target = f"127.0.0.1:{weirgate.port()}"
        said = await run("testssl", *options, *PARTS, target)
        findings = json.loads(report.read_text())
    names = {finding["id"] for finding in findings}
    assert {"TLS1_3", "heartbleed"} <= names, said[-2000:]
    bad = [
        (f["id"], f["severity"], f["finding"])
        for f in findings
        if f["severity"] not in HARMLESS
        and not f["id"].startswith(NOT_OURS)
        and (f["id"], f["finding"]) != ("sessionresumption_ticket", NOT_LOOKED_AT)
    ]
    assert bad == []


@pytest.mark.skipif(shutil.which("sslyze") is None, reason="sslyze is not installed")
@pytest.mark.parametrize("profile", ["modern", "intermediate"])
async def test_sslyze_objects_to_the_certificate_alone(tmp_path: Path, profile: str) -> None:
    tls = {"profile": profile, "certificates": [certs.issue(tmp_path, "weirgate.test").yaml()]}
    config = Configuration().listen("web", tls=tls).route("all", respond={"status": 200})
    async with running(config) as weirgate:
        said = await run("sslyze", f"--mozilla_config={profile}", f"127.0.0.1:{weirgate.port()}")
    objections = [line.strip() for line in said.splitlines() if line.startswith("        * ")]
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in said, said[-2000:]
    assert [o for o in objections if "certificate" not in o] == []
