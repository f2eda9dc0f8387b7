"""What the demo runs: the applications, a certificate, a configuration, and Weirgate over them."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from weirgate.shared.errors import WeirgateError
from weirgate.shared.supervisor.port_owner import port_owner
from weirgate.shared.testing import eventually, free_port

HOST = "127.0.0.1"
APPLICATIONS = ("shop", "api-1", "api-2", "images", "line-app")
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


class DemoError(WeirgateError):
    """The demo cannot run; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the demo listens; 8080, 8443, 9000 and 9900 unless another base is given."""

    http: int
    https: int
    tcp: int
    admin: int

    @classmethod
    def from_base(cls, base: int) -> "Ports":
        """Keep the distances of the usual ports from 8080.

        Raises:
            DemoError: The last one would be beyond 65535.
        """
        ports = cls(base, base + 363, base + 920, base + 1820)
        if ports.admin > 65535:
            raise DemoError(f"--port-base {base} is too high: the last port is {ports.admin}")
        return ports

    def check_free(self) -> None:
        """Raise ``DemoError`` naming every port that is taken, and by whom."""
        taken = [port for port in (self.http, self.https, self.tcp, self.admin) if _taken(port)]
        if taken:
            lines = [f"port {port} is in use{_by(port)}" for port in taken]
            raise DemoError("\n".join([*lines, "choose others with --port-base"]))


@dataclass(slots=True)
class Site:
    """The running demo."""

    ports: Ports
    directory: Path
    applications: dict[str, asyncio.subprocess.Process]
    addresses: dict[str, int]
    weirgate: asyncio.subprocess.Process

    @property
    def certificate(self) -> Path:
        """The certificate that a client has to trust."""
        return self.directory / "localhost.pem"

    def log(self) -> str:
        """Return what Weirgate said so far."""
        return (self.directory / "weirgate.log").read_text()


@contextlib.asynccontextmanager
async def run_site(ports: Ports, directory: Path) -> AsyncIterator[Site]:
    """Start everything, and stop it in the reverse order.

    Raises:
        DemoError: Something did not start.
    """
    ports.check_free()
    async with contextlib.AsyncExitStack() as stack:
        addresses = {name: free_port() for name in APPLICATIONS}
        applications = {
            name: await _start(stack, directory / f"{name}.log", _command(name, port), name)
            for name, port in addresses.items()
        }
        await _make_certificate(directory)
        file = directory / "weirgate.yaml"
        file.write_text(yaml.safe_dump(configuration(ports, addresses, directory), sort_keys=False))
        await asyncio.gather(*(_accepts(name, port) for name, port in addresses.items()))
        command = [sys.executable, "-P", "-m", "weirgate.shared.cli.main", "up", str(file)]
        weirgate = await _start(stack, directory / "weirgate.log", command, "weirgate")
        site = Site(ports, directory, applications, addresses, weirgate)
        await _serving(site)
        yield site


def configuration(ports: Ports, addresses: dict[str, int], directory: Path) -> dict[str, object]:
    """Return the demo's configuration."""
    at = {name: f"{HOST}:{port}" for name, port in addresses.items()}
    health = {"path": "/healthz", "interval": "1s", "timeout": "500ms", "fall": 2, "rise": 2}
    certificate = {
        "cert": str(directory / "localhost.pem"),
        "key": str(directory / "localhost.key"),
    }
    return {
        "listeners": {
            "web": {"bind": f"{HOST}:{ports.http}"},
            "secure": {"bind": f"{HOST}:{ports.https}", "tls": {"certificates": [certificate]}},
            "lines": {"bind": f"{HOST}:{ports.tcp}", "protocol": "tcp", "pool": "lines"},
        },
        "gateway": {"workers": 2},
        "logs": {"access": {"to": str(directory / "access.log")}},
        "admin": {"bind": f"{HOST}:{ports.admin}"},
        "drain": {"timeout": "3s"},
        "pools": {
            "shop": {"endpoints": [at["shop"]], "health": health},
            "api": {"endpoints": [at["api-1"], at["api-2"]], "health": health},
            "canary": {"endpoints": [at["api-2"]]},
            "images": {"endpoints": [at["images"]], "health": health},
            "lines": {"endpoints": [at["line-app"]]},
        },
        "routes": [
            {"name": "ping", "match": {"path": "/ping"}, "respond": {"body": "pong\n"}},
            {
                "name": "to-https",
                "match": {"path": "/account"},
                "redirect": {"to": f"https://localhost:{ports.https}{{path}}{{query}}"},
            },
            {"name": "images", "match": {"path": "/images/*"}, "pool": "images"},
            {
                "name": "canary",
                "match": {"path": "/api/*", "header": {"x-canary": "yes"}},
                "pool": "canary",
            },
            {
                "name": "limited",
                "match": {"path": "/api/limited"},
                "filters": [{"rate_limit": {"rate": "30/m", "burst": 3}}],
                "pool": "api",
            },
            {
                "name": "cart",
                "match": {"path": "/api/cart"},
                "filters": [{"sticky": {"cookie": "cart"}}],
                "pool": "api",
            },
            {"name": "api", "match": {"path": "/api/*"}, "pool": "api"},
            {"name": "shop", "pool": "shop"},
        ],
    }


def _command(name: str, port: int) -> list[str]:
    if name == "line-app":
        return [sys.executable, "-P", "-m", "weirgate.shared.demo.line_app", str(port)]
    application = f"weirgate.shared.demo.apps:{name.partition('-')[0]}"
    options = ["--host", HOST, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    return [sys.executable, "-P", "-m", "uvicorn", application, *options]


async def _start(
    stack: contextlib.AsyncExitStack, log: Path, command: list[str], name: str
) -> asyncio.subprocess.Process:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "DEMO_NAME": name},
            process_group=0,  # Ctrl-C in the terminal reaches the demo alone
        )
    stack.push_async_callback(_end, process)
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _make_certificate(directory: Path) -> None:
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "7", "-subj", "/CN=localhost", "-addext", names]
    command += [
        "-keyout",
        str(directory / "localhost.key"),
        "-out",
        str(directory / "localhost.pem"),
    ]
    try:
        openssl = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except FileNotFoundError:
        raise DemoError("the program openssl is missing; it makes the certificate") from None
    said, _ = await openssl.communicate()
    if openssl.returncode:
        raise DemoError(f"openssl made no certificate:\n{said.decode()}")


async def _accepts(name: str, port: int) -> None:
    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    try:
        await eventually(accepts, within_s=_START_SECONDS)
    except TimeoutError:
        raise DemoError(f"the application {name} did not start") from None


async def _serving(site: Site) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:

        async def serving() -> bool:
            if site.weirgate.returncode is not None:
                raise DemoError(f"weirgate ended:\n{site.log()}")
            with contextlib.suppress(httpx.TransportError):
                answer = await client.get(f"http://{HOST}:{site.ports.admin}/health")
                return answer.status_code == 200
            return False

        try:
            await eventually(serving, within_s=_START_SECONDS)
        except TimeoutError:
            raise DemoError(f"weirgate does not get ready:\n{site.log()}") from None


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _by(port: int) -> str:
    owner = port_owner(port)
    return f" by {owner}" if owner else ""
