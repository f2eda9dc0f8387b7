"""The local target: the demo applications and a whole Weirgate, as processes of this machine."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.processes import Running, StartError, wait_until

from loadtests.plan import Target
from weirgate.shared.testing import free_port

ROOT = Path(__file__).parents[1]
APPLICATIONS = ROOT / "deploy" / "compose" / "applications"
CONFIGURATION = Path(__file__).parent / "local.yaml"
HOST = "127.0.0.1"
#: The processes by name; what comes before the number is the script.
INSTANCES = ("api_1", "api_2", "images", "chat", "grpc_echo", "tcp_echo", "udp_echo")
LISTENERS = ("HTTP_PORT", "TLS_PORT", "TCP_PORT", "UDP_PORT", "ADMIN_PORT")
DEADLINE_S = 30.0


@contextmanager
def local_target(directory: Path, **variables: str) -> Iterator[Target]:
    """Start all of it, and end it afterwards; `variables` go into the configuration.

    Raises:
        StartError: Something did not start.
    """
    with ExitStack() as stack:
        ports = {name: free_port() for name in INSTANCES if name != "udp_echo"}
        ports["udp_echo"] = free_port(socket.SOCK_DGRAM)
        for name, port in ports.items():
            stack.enter_context(application(name, port, directory))
        wait_for_ports(
            {name: port for name, port in ports.items() if name != "udp_echo"}, directory
        )
        listeners = {name: free_port() for name in LISTENERS if name != "UDP_PORT"}
        listeners["UDP_PORT"] = free_port(socket.SOCK_DGRAM)
        make_certificate(directory)
        values = {name.upper(): str(port) for name, port in {**ports, **listeners}.items()}
        stack.enter_context(
            weirgate(
                ("up", CONFIGURATION),
                directory,
                listeners["ADMIN_PORT"],
                {**values, "DIRECTORY": str(directory), **variables},
            )
        )
        yield Target(
            "local",
            HOST,
            listeners["HTTP_PORT"],
            listeners["TLS_PORT"],
            listeners["TCP_PORT"],
            listeners["UDP_PORT"],
            {"node": f"http://{HOST}:{listeners['ADMIN_PORT']}"},
        )


@contextmanager
def application(name: str, port: int, directory: Path, *, grace_s: float = 0) -> Iterator[Running]:
    """Run one of the applications on the loopback; it serves on for the grace after SIGTERM."""
    script = name.rstrip("_0123456789")
    with Running(
        [sys.executable, str(APPLICATIONS / f"{script}.py")],
        cpus=frozenset(),
        stdout=directory / f"{name}.log",
        stderr=directory / f"{name}.log",
        env={
            "HOST": HOST,
            "PORT": str(port),
            "INSTANCE": name.replace("_", "-"),
            "GRACE_SECONDS": str(grace_s),
        },
    ) as running:
        yield running


@contextmanager
def weirgate(
    arguments: tuple[str | Path, ...],
    directory: Path,
    admin: int,
    variables: Mapping[str, str],
    *,
    name: str = "weirgate",
) -> Iterator[Running]:
    """Run Weirgate's command line, and go on when its node is ready and every endpoint is up."""
    command = [sys.executable, "-P", "-m", "weirgate.shared.cli.main", *map(str, arguments)]
    log = directory / f"{name}.log"
    with Running(command, cpus=frozenset(), stdout=log, stderr=log, env=variables) as running:
        if not wait_until(lambda: not running.alive or _ready(admin), DEADLINE_S, 0.05):
            raise StartError(f"weirgate does not get ready: {running.last_words()}")
        if not running.alive:
            raise StartError(f"weirgate ended: {running.last_words()}")
        yield running


def make_certificate(directory: Path) -> None:
    """Make a certificate for the loopback: cert.pem and key.pem."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "7", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def wait_for_ports(ports: Mapping[str, int], directory: Path) -> None:
    for name, port in ports.items():
        if not wait_until(lambda p=port: _accepts(p), DEADLINE_S):  # type: ignore[misc]
            raise StartError(f"{name} does not start: {(directory / f'{name}.log').read_text()}")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 2):
            return True
    except OSError:
        return False


def _ready(port: int) -> bool:
    """Whether the node serves, and has found every endpoint well that it checks."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        with connection.getresponse() as health:
            health.read()
        connection.request("GET", "/status")
        with connection.getresponse() as status:
            pools = json.load(status)["pools"]
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    endpoints = [endpoint for pool in pools for endpoint in pool["endpoints"]]
    return health.status == 200 and all(e["state"] == "up" for e in endpoints if e["checked"])


def environment() -> dict[str, str]:
    """The environment in which a process of ours finds `loadtests` and this checkout's Weirgate."""
    path = [str(ROOT / "python"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
