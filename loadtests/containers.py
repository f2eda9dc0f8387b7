"""The Compose demo as a target: whichever form runs, with the admin APIs of all its nodes."""

import json
import os

from scripts.compose import FORMS, SECRETS, Project
from scripts.image.engine import EngineError, run

from loadtests.plan import Target
from loadtests.scrape import TOKEN_VARIABLE
from loadtests.target import TargetError

_HOST = "127.0.0.1"
_ADMIN_PORT = 9900
#: By the variables that compose.yaml has for them.
_PORTS = {"WEB_PORT": 8080, "TLS_PORT": 8443, "LINES_PORT": 7000, "DATAGRAMS_PORT": 7001}


def compose_target() -> Target:
    """Return the running demo; its token goes into the environment, where scraping looks for it.

    Raises:
        TargetError: it does not run.
    """
    try:
        project = next((p for p in map(Project, FORMS) if p.containers("edge")), None)
        if project is None:
            raise TargetError("the demo does not run: make compose-demo")
        admin = {"edge": f"http://{_HOST}:{os.environ.get('ADMIN_PORT', _ADMIN_PORT)}"}
        if project.form == "apart":
            admin |= _gateways(project)
    except EngineError as error:
        raise TargetError(str(error)) from error
    os.environ.setdefault(TOKEN_VARIABLE, (SECRETS / "admin_token").read_text().strip())
    http, tls, tcp, udp = (int(os.environ.get(name, port)) for name, port in _PORTS.items())
    return Target("compose", _HOST, http, tls, tcp, udp, admin)


def _gateways(project: Project) -> dict[str, str]:
    described = json.loads(run(["docker", "inspect", *project.containers("gateway")]))
    network = f"{project.name}_tiers"
    addresses = [one["NetworkSettings"]["Networks"][network]["IPAddress"] for one in described]
    return {
        f"gateway-{number}": f"http://{address}:{_ADMIN_PORT}"
        for number, address in enumerate(sorted(addresses), 1)
    }
