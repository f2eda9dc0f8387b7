"""What is done to the containers, and what clients may see of it.

The objectives are those of the project's bars where they apply: R1 (a gateway killed), R2 (the edge
killed), R3 (an application killed), R5 (every gateway replaced).
"""

import random

from benchmarks.processes import pause, wait_until
from scripts.image.engine import EngineError, run

from loadtests.drills.drill import Fault, Objective, Scene

HTTP = ("Browse", "Api", "Checkout", "UploadDownload")
EVERYBODY = (*HTTP, "Chat", "Grpc", "TcpEcho", "UdpEcho")
#: Carts live in an application's memory: they end with it.
WITHOUT_CARTS = ("Browse", "Api", "UploadDownload")
HELD_UP_S = 10.0
HEALTHY_S = 60.0


def kill_a_gateway(scene: Scene) -> None:
    """``docker kill`` of one gateway, and a start of it three seconds later."""
    _kill(scene, "gateway")


def kill_an_application(scene: Scene) -> None:
    """``docker kill`` of one of the two APIs, and a start of it three seconds later."""
    _kill(scene, "api")


def pause_an_application(scene: Scene) -> None:
    """``docker pause`` of one of the two APIs: it accepts connections and says nothing."""
    victim = scene.project.containers("api")[0]
    scene.mark("an application is paused")
    run(["docker", "pause", victim])
    try:
        pause(HELD_UP_S)
    finally:
        run(["docker", "unpause", victim])
    scene.mark("it goes on")
    _healthy(scene)


def cut_a_gateway_off(scene: Scene) -> None:
    """One gateway is taken off the network of the tiers: nothing answers, nothing refuses."""
    victim = scene.project.containers("gateway")[0]
    network = f"{scene.project.name}_tiers"
    scene.mark("a gateway is cut off")
    run(["docker", "network", "disconnect", network, victim])
    try:
        pause(HELD_UP_S)
    finally:
        run(["docker", "network", "connect", "--alias", "gateway", network, victim])
    scene.mark("it is connected again")
    _healthy(scene)


def restart_the_edge(scene: Scene) -> None:
    """The edge's container is killed and started (shared), or told to restart (apart)."""
    (edge,) = scene.project.containers("edge")
    if scene.project.form == "shared":
        scene.mark("the edge is killed")
        run(["docker", "kill", edge])
        run(["docker", "start", edge])
    else:
        scene.mark("the edge is restarted")
        run(["docker", "restart", "--time", "15", edge])
    scene.mark("its container runs")
    _healthy(scene)


def roll_every_gateway(scene: Scene) -> None:
    """A new image: each gateway is replaced by a container of it, one after the other."""
    old = scene.project.containers("gateway")
    rolled = "weirgate:rolled"
    run(["docker", "tag", "weirgate:latest", rolled])
    scene.mark("containers of the new image start")
    count = len(old)
    scene.project.compose(
        "up", "--detach", "--no-recreate", "--scale", f"gateway={2 * count}", WEIRGATE_IMAGE=rolled
    )
    _healthy(scene)
    for number, container in enumerate(old, 1):
        scene.mark(f"gateway {number} of {count} leaves")
        run(["docker", "stop", "--time", "30", container])
        run(["docker", "rm", container])
    run(["docker", "image", "rm", rolled])  # the name alone: its containers go on
    _healthy(scene)


def scale_applications(scene: Scene) -> None:
    """The API has two containers, then six, then one, then two."""
    for count in (6, 1, 2):
        scene.mark(f"the API is scaled to {count}")
        _scale(scene, api=count)
        pause(2)
    _healthy(scene)


def scale_at_random(scene: Scene, events: int = 20) -> None:
    """Containers of two services are added and removed in random order."""
    dice = random.Random(events)  # the same order each time
    counts = {"api": 2, "gateway": 3}
    for number in range(events):
        service = dice.choice(["api", "api", "gateway"])
        counts[service] = dice.randint(1, 5)
        scene.mark(f"{number + 1}: {service} is scaled to {counts[service]}")
        _scale(scene, **{service: counts[service]})
    _scale(scene, api=2, gateway=3)
    _healthy(scene)


def _kill(scene: Scene, service: str) -> None:
    victim = scene.project.containers(service)[0]
    scene.mark(f"a container of {service} is killed")
    run(["docker", "kill", victim])
    pause(3)
    run(["docker", "start", victim])
    scene.mark("it is started again")
    _healthy(scene)


def _scale(scene: Scene, **counts: int) -> None:
    scales = [word for name, n in counts.items() for word in ("--scale", f"{name}={n}")]
    # one that is not named would go back to what the file says
    for service in ("api", "gateway"):
        if service not in counts:
            now = len(scene.project.containers(service))
            scales += ["--scale", f"{service}={now}"]
    scene.project.compose("up", "--detach", "--no-recreate", *scales)


def _healthy(scene: Scene) -> None:
    def healthy() -> bool:
        return all(state in {"healthy", "running"} for state in scene.project.states().values())

    if not wait_until(healthy, HEALTHY_S, step_s=0.5):
        raise EngineError(f"not well again in {HEALTHY_S:g} s: {scene.project.states()}")


def _nothing(_: int) -> Objective:
    return Objective("no request fails")


def _in_flight(users: int) -> Objective:
    """What is in flight on one of three gateways: at most what everybody has in flight."""
    each = max(1, users // len(EVERYBODY) + 1)
    return Objective(
        "R1: only what was in flight on it fails, within three seconds",
        failures=dict.fromkeys((*HTTP, "Chat", "Grpc"), each),
        failures_within_s=3.0,
    )


def _cut_off(users: int) -> Objective:
    each = max(1, users // len(EVERYBODY) + 1)
    return Objective(
        "only what was in flight on it fails, once it is known to be cut off (3.2 s)",
        failures=dict.fromkeys((*HTTP, "Chat", "Grpc"), each),
        failures_within_s=6.0,
    )


def _application_killed(users: int) -> Objective:
    each = max(1, users // len(WITHOUT_CARTS))
    return Objective(
        "R3: no GET fails; a POST that was in flight on it may",
        failures={"Api": each, "UploadDownload": each},
        failures_within_s=3.0,
    )


def _application_paused(users: int) -> Objective:
    return Objective(
        "what it had taken waits for it; new requests go to the other one within three checks",
        failures_within_s=6.0,
        silence_s=4,
    )


def _edge_restarted(users: int) -> Objective:
    return Objective(
        "clients are refused while there is no edge, and at no other time",
        failures=dict.fromkeys(EVERYBODY, 100_000),
        silence_s=30,
    )


def _edge_killed(users: int) -> Objective:
    each = max(1, users // len(EVERYBODY) + 1)
    return Objective(
        "R2: no HTTP connection is lost, none is refused; relayed streams of layer 4 are lost",
        failures={"TcpEcho": 3 * each, "UdpEcho": 100_000},
        silence_s=30,
    )


FAULTS = (
    Fault("kill-gateway", kill_a_gateway, _in_flight, EVERYBODY),
    Fault("kill-application", kill_an_application, _application_killed, WITHOUT_CARTS),
    Fault("pause-application", pause_an_application, _application_paused, WITHOUT_CARTS),
    Fault("cut-off-gateway", cut_a_gateway_off, _cut_off, EVERYBODY, forms=("apart",)),
    Fault("restart-edge", restart_the_edge, _edge_restarted, EVERYBODY, forms=("apart",)),
    Fault("kill-edge", restart_the_edge, _edge_killed, EVERYBODY, forms=("shared",)),
    Fault("roll-gateways", roll_every_gateway, _nothing, HTTP),
    Fault("scale-applications", scale_applications, _nothing, WITHOUT_CARTS),
    Fault("scale-at-random", scale_at_random, _nothing, WITHOUT_CARTS),
)
