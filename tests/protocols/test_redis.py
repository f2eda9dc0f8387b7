"""Redis: its own benchmark with pipelines, its own client, messages that the server pushes."""

import asyncio
import csv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.peers import tool
from tests.support.processes import finished, process
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

REQUESTS = 20_000


@dataclass(frozen=True)
class Site:
    weirgate: Running
    server: int

    @property
    def port(self) -> int:
        return self.weirgate.port("cache")

    async def cli(self, *arguments: str, port: int | None = None, text: bytes = b"") -> str:
        command = (tool("redis-cli"), "-h", "127.0.0.1", "-p", str(port or self.port))
        done = await finished(*command, *arguments, input=text, within_s=20)
        assert done.code == 0, done.text
        return done.text.strip()


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    tool("redis-benchmark")
    async with peers.redis(tmp_path_factory.mktemp("redis")) as peer:
        config = Configuration().listen("cache", protocol="tcp", pool="cache")
        async with running(config.pool("cache", peer.port)) as weirgate:
            yield Site(weirgate, peer.port)


@pytest.mark.parametrize("pipeline", [1, 16])
async def test_redis_benchmark(site: Site, pipeline: int) -> None:
    before = await _commands(site)
    command = (tool("redis-benchmark"), "-h", "127.0.0.1", "-p", str(site.port), "--csv")
    load = ("-t", "ping,set,get", "-n", str(REQUESTS), "-c", "50", "-d", "200")
    done = await finished(*command, *load, "-P", str(pipeline), within_s=60)
    assert done.code == 0, done.text
    assert b"rror" not in done.out, done.text
    rows = list(csv.DictReader(done.out.decode().splitlines()))
    assert [row["test"] for row in rows] == ["PING_INLINE", "PING_MBULK", "SET", "GET"]
    # What was asked, besides the benchmark's own look at the server's configuration.
    assert await _commands(site) - before >= 4 * REQUESTS


async def _commands(site: Site) -> int:
    said = await site.cli("info", "stats", port=site.server)
    lines = dict(line.split(":", 1) for line in said.split() if ":" in line)
    return int(lines["total_commands_processed"])


async def test_redis_cli_and_a_mass_of_commands_in_one_pipe(site: Site) -> None:
    assert await site.cli("ping") == "PONG"
    assert await site.cli("set", "key", "value") == "OK"
    assert await site.cli("get", "key") == "value"
    count = 50_000
    commands = "".join(f"set pipe:{number} {number}\r\n" for number in range(count))
    assert f"replies: {count}" in await site.cli("--pipe", text=commands.encode())
    assert await site.cli("get", f"pipe:{count - 1}") == str(count - 1)


async def test_messages_that_the_server_pushes(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "subscriber.log"
    command = (tool("redis-cli"), "-h", "127.0.0.1", "-p", str(site.port), "subscribe", "news")
    async with process(*command, log=log):
        await eventually(lambda: "subscribe" in log.read_text(), what="a subscriber")
        published = [site.cli("publish", "news", f"message {number}") for number in range(20)]
        assert await asyncio.gather(*published) == ["1"] * 20
        await eventually(lambda: log.read_text().count("message ") == 20, what="the messages")
