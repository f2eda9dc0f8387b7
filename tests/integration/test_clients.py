"""Programs that people really use as clients; one that is not installed skips by name."""

import asyncio
import http.client
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import certs, peers
from tests.support.origin import Origin, answer, chunked, one_origin
from tests.support.processes import Finished, finished
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running
    authority: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.weirgate.port()}"

    @property
    def secure(self) -> str:
        return f"https://weirgate.test:{self.weirgate.port('secure')}"

    async def curl(self, *arguments: str) -> Finished:
        port = self.weirgate.port("secure")
        resolve = ("--resolve", f"weirgate.test:{port}:127.0.0.1", "--cacert", str(self.authority))
        done = await finished(peers.tool("curl"), "-sS", "--max-time", "20", *resolve, *arguments)
        assert done.code == 0, done.text
        return done


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("clients")
    cert = certs.issue(directory, "weirgate.test").yaml()
    config = Configuration(workers=2).listen("web")
    config.listen("secure", tls={"certificates": [cert]}).route("all", pool="all")
    async with one_origin() as origin:
        origin.on("/small", answer(200, b"hello"))
        origin.on("/chunked", chunked([b"one ", b"two ", b"three"]))
        config.pool("all", origin.port)
        async with running(config) as weirgate:
            yield Site(origin, weirgate, certs.authority_file(directory))


async def test_curl_gets_and_posts(site: Site) -> None:
    assert (await site.curl(f"{site.url}/small")).out == b"hello"
    assert (await site.curl(f"{site.url}/chunked")).out == b"one two three"
    seen = json.loads((await site.curl("-d", "a=1", f"{site.url}/form")).out)
    assert (seen["method"], seen["length"]) == ("POST", 3)


@pytest.mark.parametrize(
    "extra", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue"), ("-0",)]
)
async def test_curl_uploads_a_file(site: Site, tmp_path: Path, extra: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789" * 200_000)
    done = await site.curl("-T", str(file), *extra, f"{site.url}/upload")
    assert json.loads(done.out)["length"] == 2_000_000


async def test_curl_head(site: Site) -> None:
    done = await site.curl("-I", f"{site.url}/x")
    assert done.out.startswith(b"HTTP/1.1 200")


async def test_curl_reuses_its_connection(site: Site) -> None:
    done = await site.curl("-v", *[f"{site.url}/small"] * 5)
    assert done.errors.count(b"Re-using existing connection") == 4


async def test_curl_by_tls(site: Site) -> None:
    seen = json.loads((await site.curl(f"{site.secure}/tls")).out)
    assert [v for k, v in seen["headers"] if k.lower() == "x-forwarded-proto"] == ["https"]
    for option, version in (("--http1.1", b"1.1"), ("--http2", b"2")):
        show = ("--tls-max", "1.2", option, "-w", "%{http_version}")
        assert (await site.curl(*show, f"{site.secure}/small")).out == b"hello" + version


async def test_openssl_s_client(site: Site) -> None:
    port = site.weirgate.port("secure")
    command = (peers.tool("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{port}")
    raw = b"GET /small HTTP/1.1\r\nHost: weirgate.test\r\nConnection: close\r\n\r\n"
    done = await finished(*command, "-servername", "weirgate.test", input=raw)
    assert done.out.endswith(b"hello")


async def test_wrk(site: Site) -> None:
    command = (peers.tool("wrk"), "-t1", "-c16", "-d1s", f"{site.url}/small")
    done = await finished(*command)
    assert done.code == 0, done.text
    assert b"Socket errors" not in done.out, done.text
    assert b"Non-2xx" not in done.out, done.text
    requests = re.search(rb"(\d+) requests in", done.out)
    assert requests is not None
    assert int(requests[1]) > 100


async def test_hey(site: Site) -> None:
    command = (peers.tool("hey"), "-n", "400", "-c", "20", f"{site.url}/small")
    done = await finished(*command)
    assert b"[200]\t400 responses" in done.out, done.text
    assert b"Error distribution" not in done.out, done.text


@pytest.mark.parametrize("keep", [("-k",), ()], ids=["keep-alive", "close"])
async def test_ab_speaks_http_1_0(site: Site, keep: tuple[str, ...]) -> None:
    command = (peers.tool("ab"), "-q", "-n", "400", "-c", "20", *keep, f"{site.url}/small")
    done = await finished(*command)
    assert done.code == 0, done.text
    assert re.search(rb"Complete requests: +400\n", done.out), done.text
    assert re.search(rb"Failed requests: +0\n", done.out), done.text
    if keep:
        assert re.search(rb"Keep-Alive requests: +400\n", done.out), done.text


async def test_httpx(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get("/small") for _ in range(30)))
        assert {a.text for a in answers} == {"hello"}

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000

        seen = (await client.post("/stream", content=parts())).json()
        assert seen["length"] == 100_000


async def test_http_client_of_python(site: Site) -> None:
    def visit() -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", site.weirgate.port(), timeout=10)
        seen = []
        for path in ("/small", "/chunked", "/small"):
            connection.request("GET", path)
            response = connection.getresponse()
            seen.append((response.status, response.read()))
        connection.close()
        return seen

    expected = [(200, b"hello"), (200, b"one two three"), (200, b"hello")]
    assert await asyncio.to_thread(visit) == expected


async def test_node_fetch(site: Site) -> None:
    script = (
        "(async () => {"
        f"for (let i = 0; i < 5; i++) {{ const r = await fetch('{site.url}/small');"
        "if (r.status !== 200 || await r.text() !== 'hello') process.exit(1); }"
        "process.exit(0); })()"
    )
    done = await finished(peers.tool("node"), "-e", script)
    assert done.code == 0, done.text
