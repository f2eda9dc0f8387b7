"""The way over that the page describes: beside the old one, then a share, then all; none fails."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.migrating.site import NGINX_TEMPORARY
from tests.migrating.visitor import ask
from tests.support.origin import echoed, origins
from tests.support.peers import listening, tool
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

OLD = """
daemon off; pid {dir}/nginx.pid; error_log stderr; events {{}}
http {{
  {temporary}
  upstream app {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


class Old:
    """nginx with a pool that is written anew."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.file = directory / "nginx.conf"
        self.pid = 0

    def write(self, *servers: str) -> None:
        named = " ".join(f"server {server};" for server in servers)
        temporary = NGINX_TEMPORARY.format(dir=self.directory)
        self.file.write_text(
            OLD.format(dir=self.directory, port=self.port, servers=named, temporary=temporary)
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        command = (tool("nginx"), "-p", self.directory, "-e", "stderr", "-c", self.file)
        async with listening(self.directory, self.port, *command) as peer:
            self.pid = peer.pid
            yield

    def reload(self, *servers: str) -> None:
        self.write(*servers)
        os.kill(self.pid, signal.SIGHUP)


class Load:
    """Requests one after the other, until told to stop; every answer counts."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.statuses: list[int] = []
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            self.statuses.append((await get(self.port, "/load")).status)


async def test_a_share_and_then_all_goes_over_and_no_request_fails(tmp_path: Path) -> None:
    old = Old(tmp_path, free_port())
    async with origins("a", "b") as pair:
        apps = [f"127.0.0.1:{origin.port}" for origin in pair]
        old.write(*apps)
        async with old.running(), running(_new(apps)) as weirgate:
            beside = f"127.0.0.1:{weirgate.port()}"
            load = Load(old.port)
            task = asyncio.create_task(load.run())
            old.reload(*apps, beside)
            await eventually(lambda: _by_weirgate(old.port, some=True), what="a share")
            old.reload(beside)
            await eventually(lambda: _by_weirgate(old.port, some=False), what="all")
            load.stopping = True
            await task
            assert set(load.statuses) == {200}
            await _tells_the_clients_apart(old.port, weirgate)


def _new(apps: list[str]) -> Configuration:
    config = Configuration().listen("web", trusted_proxies="127.0.0.1").pool("app", *apps)
    config.route(
        "login",
        match={"path": "/login"},
        filters=[{"rate_limit": {"rate": "6/m", "burst": 1}}],
        pool="app",
    )
    return config.route("app", pool="app")


async def _by_weirgate(port: int, *, some: bool) -> bool:
    """Say whether some, or all, of many requests came by it: it gives each an id."""
    many = [echoed(await get(port)).all("x-request-id") for _ in range(24)]
    return any(many) if some else all(many)


async def _tells_the_clients_apart(port: int, weirgate: Running) -> None:
    """Behind the old one, Weirgate logs, limits and names the client, not the old one."""
    clients = ["127.0.0.8", "127.0.0.9"]
    for client in clients:
        first, second = [await ask(port, "/login", local=client) for _ in range(2)]
        assert echoed(first).one("x-forwarded-for") == f"{client}, 127.0.0.1"
        assert second.status == 429

    def refused() -> list[str]:
        found = [entry["client"] for entry in weirgate.access.entries() if entry["status"] == 429]
        return [client.partition(":")[0] for client in found]

    await eventually(lambda: refused() == clients, what="two lines of the log")
