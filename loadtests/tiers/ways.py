"""The application, and the four ways to it, all running at the same time; one is used at a time."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.netns import Cores, pinned
from benchmarks.processes import Running, free_ports
from benchmarks.subjects import Ground, start_origin

from loadtests.local import application, wait_for_ports, weirgate

HERE = Path(__file__).parent
LARGE_BYTES = 64 * 1024
#: Applications behind the ways besides the measured one, for what is observed.
OTHERS = ("api_1", "api_2", "tcp_echo")
NODE_LISTENERS = ("RAW_PORT", "RAW_API_PORT", "RAW_MUTE_PORT", "RAW_FEW_PORT", "RAW_LINES_PORT")


@dataclass
class Way:
    """One way to the application."""

    name: str
    title: str
    port: int
    #: What stands between the client and the application.
    trees: list[Running] = field(default_factory=list)
    #: Where these log.
    logs: list[Path] = field(default_factory=list)
    #: Ports for what is observed: by name, see `sights`.
    ports: dict[str, int] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """User and system time so far of all that stands in between."""
        return sum(tree.cpu_seconds() for tree in self.trees)


@contextmanager
def ways(work: Path, cores: Cores) -> Iterator[list[Way]]:
    """Start everything.

    Raises:
        StartError: Something did not start; nginx, the application, may be missing.
    """
    with ExitStack() as stack:
        names = ["APP_PORT", "WEB_PORT", "ADMIN_PORT", "TIER_PORT", "LOAD_PORT", "APART_PORT"]
        names += ["EDGE_ADMIN", "GATEWAY_ADMIN", *NODE_LISTENERS, *map(str.upper, OTHERS)]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        (work / "64k.bin").write_bytes(bytes(range(256)) * (LARGE_BYTES // 256))
        ground = Ground(work, cores, ports["APP_PORT"], 0)
        stack.callback(start_origin(ground).stop)
        ports["MUTE_PORT"] = stack.enter_context(mute()).port
        with pinned(cores.origin):
            for name in OTHERS:
                stack.enter_context(application(name, ports[name.upper()], work))
        wait_for_ports({name: ports[name.upper()] for name in OTHERS}, work)
        found = _start(stack, work, cores, ports)
        yield found
        for tree in {tree.pid: tree for way in found for tree in way.trees}.values():
            if tree.alive:  # the second signal, when the stack unwinds, ends it at once
                os.kill(tree.pid, signal.SIGTERM)


def _start(stack: ExitStack, work: Path, cores: Cores, ports: dict[str, int]) -> list[Way]:
    def start(verb: str, file: str, admin: str, **changed: int) -> Running:
        log = work / f"{verb}.access"
        values = {name: str(port) for name, port in {**ports, **changed}.items()}
        values |= {"LOG": str(log), "ADMIN_PORT": values[admin]}
        with pinned(cores.subject):
            return stack.enter_context(
                weirgate((verb, HERE / file), work, int(values["ADMIN_PORT"]), values, name=verb)
            )

    node = start("up", "node.yaml", "ADMIN_PORT")
    gateway = start("gateway", "apart.yaml", "GATEWAY_ADMIN", WEB_PORT=ports["APART_PORT"])
    edge = start("edge", "apart.yaml", "EDGE_ADMIN", WEB_PORT=ports["APART_PORT"])
    one, two = [work / "up.access"], [work / "edge.access", work / "gateway.access"]
    raw = {name.removesuffix("_PORT").lower(): ports[name] for name in NODE_LISTENERS}
    app, web, apart = ports["APP_PORT"], ports["WEB_PORT"], ports["APART_PORT"]
    direct = {"raw_api": ports["API_1"], "raw": app}
    return [
        Way("direct", "direct", app, ports=direct),
        Way("layer 4", "`tcp` listener, layer 4", ports["RAW_PORT"], [node], one, raw),
        Way("handoff", "both tiers, handoff", web, [node], one, {"web": web}),
        Way("proxy", "both tiers, PROXY v2", apart, [edge, gateway], two, {"web": apart}),
    ]


@dataclass
class Mute:
    """An endpoint that takes connections, reads a request, and closes without an answer."""

    port: int
    #: How many requests it has read.
    asked: int = 0


@contextmanager
def mute() -> Iterator[Mute]:
    """Run it in a thread."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    endpoint.asked += bool(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Mute(int(listener.getsockname()[1]))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
