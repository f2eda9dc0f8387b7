"""Other people's servers as real processes; a missing tool skips the test with its name."""

import contextlib
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import process
from tests.support.wire import connect
from weirgate.shared.testing import eventually, free_port

NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  client_max_body_size 0; keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ return 200 "hello from nginx\\n"; }}
    location /files/ {{ alias {dir}/files/; }}
    location /gzip/ {{ gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any;
                      alias {dir}/files/; }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend f
  bind 127.0.0.1:{port}{accept_proxy}
  default_backend b
backend b
  server s 127.0.0.1:{target}{send_proxy}
"""

NODE = """
const http = require('http');
http.createServer((request, response) => {
  const parts = [];
  request.on('data', part => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts);
    response.setHeader('x-origin', 'node');
    response.write(`${request.method} ${request.url} `);
    response.end(String(body.length));
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
"""


@dataclass(frozen=True)
class Peer:
    """A running server."""

    port: int
    pid: int


def tool(name: str) -> str:
    """Return the path of a tool, or skip the test."""
    postgresql = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    hidden = ":".join(["/usr/sbin", "/sbin", *map(str, postgresql)])
    for place in (shutil.which(name), shutil.which(name, path=hidden)):
        if place:
            return place
    pytest.skip(f"{name} is not installed")


@contextlib.asynccontextmanager
async def listening(
    directory: Path,
    port: int,
    *command: str | Path,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> AsyncIterator[Peer]:
    """Run a command until its port accepts, and end it at the end."""
    log = directory / f"{Path(str(command[0])).name}-{port}.log"
    async with process(*command, log=log, user=user, stop_signal=stop_signal) as child:

        async def accepts() -> bool:
            assert child.returncode is None, log.read_text()
            with contextlib.suppress(OSError):
                async with connect(port):
                    return True
            return False

        await eventually(accepts, what=f"{command[0]} on port {port}")
        yield Peer(port, child.pid)


@contextlib.asynccontextmanager
async def nginx(directory: Path) -> AsyncIterator[Peer]:
    """Run nginx; what lies in ``directory/files`` is under /files/."""
    port = free_port()
    (directory / "files").mkdir(exist_ok=True)
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(dir=directory, port=port))
    command = (tool("nginx"), "-p", directory, "-e", "stderr", "-c", config)
    async with listening(directory, port, *command) as peer:
        yield peer


@contextlib.asynccontextmanager
async def haproxy(
    directory: Path, target: int, *, send_proxy: str = "", accept_proxy: bool = False
) -> AsyncIterator[Peer]:
    """Run haproxy in front of a port; ``send_proxy`` is e.g. ``send-proxy-v2``."""
    port = free_port()
    config = directory / f"haproxy-{port}.cfg"
    config.write_text(
        HAPROXY.format(
            port=port,
            target=target,
            send_proxy=f" {send_proxy}" if send_proxy else "",
            accept_proxy=" accept-proxy" if accept_proxy else "",
        )
    )
    async with listening(directory, port, tool("haproxy"), "-db", "-f", config) as peer:
        yield peer


@contextlib.asynccontextmanager
async def redis(directory: Path) -> AsyncIterator[Peer]:
    """Run redis-server without persistence."""
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    command = (tool("redis-server"), *options, "--dir", directory)
    async with listening(directory, port, *command) as peer:
        yield peer


@contextlib.asynccontextmanager
async def uvicorn(directory: Path) -> AsyncIterator[Peer]:
    """Run the ASGI application of the tests on uvicorn."""
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", "tests.support.apps:asgi", "--port", str(port))
    async with listening(directory, port, *command, "--no-access-log") as peer:
        yield peer


@contextlib.asynccontextmanager
async def killable(directory: Path) -> AsyncIterator[Peer]:
    """Run the raw origin as a process; it sends each answer at once, so none can be cut in two."""
    port = free_port()
    command = (sys.executable, "-m", "tests.support.origin", str(port))
    async with listening(directory, port, *command) as peer:
        yield peer


@contextlib.asynccontextmanager
async def gunicorn(directory: Path) -> AsyncIterator[Peer]:
    """Run the WSGI application of the tests on gunicorn."""
    port = free_port()
    options = ("--bind", f"127.0.0.1:{port}", "--worker-tmp-dir", directory, "--keep-alive", "30")
    command = (sys.executable, "-m", "gunicorn", "tests.support.apps:wsgi", *options)
    async with listening(directory, port, *command, "-k", "gthread", "--threads", "4") as peer:
        yield peer


@contextlib.asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Peer]:
    """Run a server of Node's http module."""
    port = free_port()
    script = directory / "origin.js"
    script.write_text(NODE)
    async with listening(directory, port, tool("node"), script, str(port)) as peer:
        yield peer
