"""``make compose-demo``: build what is missing, start the demo in containers, say what to try.

``up`` and ``down`` take ``--form apart`` (an edge that relays to gateways: the default) or
``--form shared`` (gateways that are handed the sockets); ``down`` leaves nothing but the images.
"""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import pause

from scripts.image.engine import EngineError, phase, run

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "deploy" / "compose"
SECRETS = ROOT / "build" / "compose"
FORMS = {"apart": "compose.yaml", "shared": "compose.shared.yaml"}
_HEALTHY_SECONDS = 120.0
_POLL_SECONDS = 0.5
_WEIRGATE_UID = 65532
#: Of the Compose files.
_VARIABLES = (
    *("PUBLISH", "WEB_PORT", "TLS_PORT", "LINES_PORT", "DATAGRAMS_PORT", "ADMIN_PORT"),
    *("LOCUST_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "DOCKER_SOCKET", "DOCKER_GID", "SECRETS"),
    *("WEIRGATE_IMAGE", "APPLICATIONS_IMAGE", "LOCUST_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE"),
)
#: By profile: the variable of the Compose file, its default, and what is there.
_PAGES = {
    "load": (("LOCUST_PORT", "8089", "Locust: start and watch a load test"),),
    "observe": (
        ("GRAFANA_PORT", "3000", "Grafana: Weirgate's dashboard"),
        ("PROMETHEUS_PORT", "9090", "Prometheus"),
    ),
}


class Project:
    """One Compose project of the demo."""

    def __init__(self, form: str, name: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.form = form
        self.name = name or f"weirgate-{form}"
        #: What the Compose file's variables are for it.
        self.environ = {**_environment(), "PROJECT": self.name, **(environ or {})}

    def compose(self, *arguments: str, **environ: str) -> str:
        """Run the Compose tool on the project, with more variables; return what it printed.

        Raises:
            EngineError: it failed, or there is none.
        """
        file = str(DIRECTORY / FORMS[self.form])
        command = [*tool(), "-p", self.name, "-f", file, *arguments]
        return run(command, environ={**self.environ, **environ})

    def containers(self, service: str = "") -> list[str]:
        """Return the ids of the project's containers, those that ended among them."""
        filters = ["--filter", f"label=com.docker.compose.project={self.name}"]
        if service:
            filters += ["--filter", f"label=com.docker.compose.service={service}"]
        return run(["docker", "ps", "--all", "--quiet", *filters]).split()

    def states(self) -> dict[str, str]:
        """Return what each container is: ``healthy``, ``starting``, ``running``, ``exited``."""
        found = self.containers()
        if not found:
            return {}
        described = json.loads(run(["docker", "inspect", *found]))
        return {one["Name"].lstrip("/"): _state(one["State"]) for one in described}

    def wait_healthy(self, seconds: float = _HEALTHY_SECONDS) -> None:
        """Return when every container is healthy.

        Raises:
            EngineError: one is not in time; the text has its last words.
        """
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            late = {name for name, state in states.items() if state not in {"healthy", "running"}}
            if states and not late:
                return
            if time.monotonic() > deadline:
                raise EngineError(
                    "\n".join(f"{name} is {states[name]}\n{_tail(name)}" for name in late)
                )
            pause(_POLL_SECONDS)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        profiles = ["--profile", "load", "--profile", "observe"] if self.form == "apart" else []
        self.compose(*profiles, "down", "--volumes", "--remove-orphans", "--timeout", "5")


def tool() -> list[str]:
    """Return the command of the Compose tool: ``docker-compose``, or the engine's plugin.

    Raises:
        EngineError: neither is installed.
    """
    chosen = os.environ.get("COMPOSE", "").split()
    if chosen:
        return chosen
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    raise EngineError("no docker-compose and no plugin: apt-get install docker-compose")


def make_secrets(directory: Path = SECRETS) -> None:
    """Write the demo's secrets and a certificate for localhost, if they are not there yet.

    Raises:
        EngineError: they cannot be written, or openssl fails.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for name, size in {"cookie_secret": 32, "admin_token": 16}.items():
            file = directory / name
            if not file.exists():
                file.touch(0o600)
                file.write_text(secrets.token_hex(size) + "\n")
        _make_certificate(directory / "certificate.pem", directory / "key.pem")
        for file in directory.iterdir():
            if os.geteuid() == 0:  # for the containers' user alone
                os.chown(file, _WEIRGATE_UID, _WEIRGATE_UID)
                file.chmod(0o400)
            else:  # a file in a container has the owner that it has here; the folder is closed
                file.chmod(0o444)
    except PermissionError as error:
        raise EngineError(f"{error}: was it made as root? remove {directory}") from error


def _make_certificate(certificate: Path, key: Path) -> None:
    """Make one for localhost where there is none, or where it ends within a week."""
    lasts = ["openssl", "x509", "-noout", "-checkend", "604800", "-in", str(certificate)]
    if subprocess.run(lasts, capture_output=True, check=False).returncode == 0:
        return
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "90", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,DNS:edge,IP:127.0.0.1"]
    run([*command, "-keyout", str(key), "-out", str(certificate)])


def up(project: Project, *, build: bool = True, profile: str = "") -> None:
    """Build, start, and wait until all is healthy; a profile adds what it has.

    Raises:
        EngineError: something did not work.
    """
    began = time.monotonic()
    if build:
        _build(profile)
    with phase("secrets and a certificate"):
        make_secrets()
    with phase("starting containers"):
        profiles = ["--profile", profile] if profile else []
        project.compose(*profiles, "up", "--detach", "--remove-orphans")
    with phase("until every container is healthy"):
        project.wait_healthy()
    sys.stdout.write(f"{'altogether':<58} {time.monotonic() - began:6.1f} s\n\n")


def _build(profile: str) -> None:
    """Make the images: the engine's cache knows those of what has not changed."""
    for name in ("weirgate", "applications", *(("loadtest",) if profile == "load" else ())):
        subprocess.run([sys.executable, "-m", "scripts.image", name], cwd=ROOT, check=True)


def _environment() -> dict[str, str]:
    """Return the variables of the Compose files: the caller's own, and what they need here."""
    own = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    socket = Path(os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    gid = str(socket.stat().st_gid) if socket.exists() else "0"
    return {"DOCKER_GID": gid, "SECRETS": str(SECRETS), **own}


def _state(state: dict[str, object]) -> str:
    health = state.get("Health")
    if state["Status"] == "running" and isinstance(health, dict):
        return str(health["Status"])
    return str(state["Status"])


def _tail(container: str) -> str:
    command = ["docker", "logs", "--tail", "15", container]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def by_hand(project: Project) -> str:
    """Return the Compose tool with the variables that the project was started with.

    Without them it would take every container for one of another configuration.
    """
    file = SECRETS.with_name(f"{project.name}.env")
    file.write_text("".join(f"{name}={value}\n" for name, value in sorted(project.environ.items())))
    return f"env $(cat {file}) {' '.join(tool())}"


def _advice(project: Project, profile: str = "") -> str:
    certificate = SECRETS / "certificate.pem"
    token = SECRETS / "admin_token"
    compose = f"{by_hand(project)} -p {project.name} -f {DIRECTORY / FORMS[project.form]}"
    pages = "".join(
        f"  xdg-open http://127.0.0.1:{project.environ.get(variable, port) + '/':25}# {what}\n"
        for variable, port, what in _PAGES.get(profile, ())
    )
    return f"""Try:
  curl http://127.0.0.1:8080/api/whoami              # who answered, and whom it saw
  curl --cacert {certificate} https://localhost:8443/
  curl -c jar -b jar http://127.0.0.1:8080/api/cart  # the same instance each time
  printf 'hello\\n' | curl -sm2 telnet://127.0.0.1:7000   # layer 4 only
  xdg-open http://127.0.0.1:8080/chat/               # a WebSocket chat
{pages}  WEIRGATE_TOKEN=$(cat {token}) .venv/bin/weirgate status
  {compose} up -d --no-recreate --scale gateway=5 --scale api=6    # seen at once
  make drill                                         # kill, pause, cut off, roll, scale: under load
  make compose-down
"""


def main() -> int:
    """Do one word; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compose", description=__doc__)
    parser.add_argument("word", choices=["up", "down"])
    parser.add_argument("--form", choices=sorted(FORMS), default="apart")
    parser.add_argument("--profile", default="", help="load: Locust's page; observe: Prometheus")
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    options = parser.parse_args()
    if options.profile and options.form != "apart":
        parser.error("profiles are of the form apart")
    project = Project(options.form)
    try:
        if options.word == "down":
            project.down()
        else:
            up(project, build=not options.no_build, profile=options.profile)
            sys.stdout.write(_advice(project, options.profile))
    except (EngineError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
