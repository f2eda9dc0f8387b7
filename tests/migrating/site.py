"""An example's configuration of nginx, HAProxy or Weirgate, started before a test's servers."""

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from tests.support.peers import listening, tool
from tests.support.processes import process
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, eventually, free_port

EXAMPLES = Path(__file__).parents[2] / "examples/from"
LOCAL = "127.0.0.1"
STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
#: Where an example listens, in the words of each file: the port stands behind one of these.
LISTENS = r"(?:(?<=listen )|(?<=bind ):|(?<=bind: \")0\.0\.0\.0:)"
#: nginx's own places need root; nothing else is added to its file.
NGINX_TEMPORARY = "access_log off;" + "".join(
    f" {name}_temp_path {{dir}}/{name};"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class Product(StrEnum):
    """What is run. Traefik cannot be had from Debian: its files are only read."""

    NGINX = "nginx"
    HAPROXY = "HAProxy"
    WEIRGATE = "Weirgate"

    @property
    def file(self) -> str:
        """The name of its file in an example's directory."""
        return FILES[self]


FILES = {
    Product.NGINX: "nginx.conf",
    Product.HAPROXY: "haproxy.cfg",
    Product.WEIRGATE: "weirgate.yaml",
}


@dataclass
class Site:
    """An example, and where the things that it names are in this test.

    ``listens`` are the ports in the file that get free ones; ``places`` are texts of the file,
    such as an endpoint's address, and what stands there instead.
    """

    case: str
    directory: Path
    listens: tuple[int, ...] = (80,)
    places: Mapping[str, str] = field(default_factory=dict)
    kind: socket.SocketKind = socket.SOCK_STREAM
    ports: dict[int, int] = field(default_factory=dict)

    def endpoints(self, *ports: int, first: str = "10.0.0.1:8000") -> "Site":
        """Put servers of this test in the place of 10.0.0.1:8000, 10.0.0.2:8000 and so on."""
        host, _, port = first.rpartition(":")
        network, _, number = host.rpartition(".")
        for at, mine in enumerate(ports, int(number)):
            self.places = {**self.places, f"{network}.{at}:{port}": f"{LOCAL}:{mine}"}
        return self

    def port(self, listens: int = 80) -> int:
        """Return where the example's port really is."""
        return self.ports[listens]

    def text(self, file: str) -> str:
        """Return a file of the example with everything in its place."""
        text = (EXAMPLES / self.case / file).read_text(encoding="utf-8")
        for here, there in self.places.items():
            text = text.replace(here, there)
        for listens in self.listens:
            self.ports.setdefault(listens, free_port(self.kind))
            mine = f"{LOCAL}:{self.ports[listens]}"
            text = re.sub(rf"{LISTENS}{listens}\b", mine, text)
        left = re.findall(r"\b10\.0\.\d+\.\d+\b|0\.0\.0\.0:\d+", text)
        assert not left, f"{self.case}/{file} names {left}, which this test has no place for"
        return text


def runs(case: str, product: Product) -> bool:
    """Say whether a product can do this at all: its file is there."""
    return (EXAMPLES / case / product.file).exists()


@contextlib.asynccontextmanager
async def started(product: Product, site: Site) -> AsyncIterator[Site]:
    """Run a product with an example's file until its listeners accept."""
    start = {Product.NGINX: _nginx, Product.HAPROXY: _haproxy, Product.WEIRGATE: _weirgate}
    async with start[product](site):
        yield site


def _needs_modules_that_are_here(text: str) -> None:
    if STREAM in text and not Path(STREAM).exists():
        pytest.skip("nginx's stream module (libnginx-mod-stream) is not installed")


@contextlib.asynccontextmanager
async def _nginx(site: Site) -> AsyncIterator[None]:
    text = site.text("nginx.conf")
    _needs_modules_that_are_here(text)
    added = f"http {{\n  {NGINX_TEMPORARY.format(dir=site.directory)}"
    config = site.directory / "nginx.conf"
    config.write_text(text.replace("http {", added, 1))
    main = f"daemon off; master_process off; pid {site.directory}/nginx.pid;"
    command = (tool("nginx"), "-p", site.directory, "-e", "stderr", "-c", config, "-g", main)
    async with _accepting(site, *command):
        yield


@contextlib.asynccontextmanager
async def _haproxy(site: Site) -> AsyncIterator[None]:
    config = site.directory / "haproxy.cfg"
    config.write_text(site.text("haproxy.cfg"))
    async with _accepting(site, tool("haproxy"), "-db", "-f", config):
        yield


@contextlib.asynccontextmanager
async def _accepting(site: Site, *command: str | Path) -> AsyncIterator[None]:
    if site.kind == socket.SOCK_STREAM:
        async with listening(site.directory, site.port(site.listens[-1]), *command):
            yield
        return
    wanted = [f":{port:04X} 00000000:0000" for port in site.ports.values()]
    async with process(*command, log=site.directory / "udp.log"):
        await eventually(lambda: _listed(wanted), what="a UDP socket")
        yield


def _listed(wanted: list[str]) -> bool:
    table = Path("/proc/net/udp").read_text()
    return all(address in table for address in wanted)


@contextlib.asynccontextmanager
async def _weirgate(site: Site) -> AsyncIterator[None]:
    config = Configuration()  # for its admin API, on a free port
    text = site.text(Product.WEIRGATE.file)
    config.data = {**yaml.safe_load(text), "admin": config.data["admin"]}
    directory = site.directory / "node"
    directory.mkdir()
    async with running(config, directory=directory):
        yield
