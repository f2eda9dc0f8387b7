"""P10: what a datagram costs through a udp listener."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import clients
from benchmarks.bars import Sample
from benchmarks.clients import Load
from benchmarks.load_case import Bench, LoadCase
from benchmarks.processes import Running, StartError, pause
from benchmarks.subjects import CONFIGS, Subject, start_subject

_SUBJECTS = {"weirgate-udp": "weirgate-udp.yaml", "nginx-udp": "nginx-udp.conf"}


class DatagramCase:
    """200-byte datagrams of 1,000 flows, echoed by an application behind."""

    name = "udp"
    title = "udp listener, 200 B echo, 1,000 flows"
    bars = ("P10",)
    subjects = tuple(_SUBJECTS)

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """Start the application and the subjects, then alternate."""
        ground = bench.ground
        echo = Running(
            [sys.executable, "-m", "benchmarks.datagram_echo", str(ground.origin_port)],
            cpus=ground.cores.origin,
            stdout=ground.work / "echo.out",
            stderr=ground.work / "echo.err",
        )
        stack.callback(echo.stop)
        here: list[Subject] = []
        for name, config in _SUBJECTS.items():
            if name.split("-")[0] not in bench.wanted:
                continue
            try:
                here.append(start_subject(name, ground, CONFIGS / config))
            except StartError as error:  # Debian's libnginx-mod-stream may be missing
                bench.missing[name] = str(error)
                continue
            stack.callback(here[-1].running.stop)
        with_echo = Bench(ground, echo, bench.rounds, bench.seconds)
        case = LoadCase(self.name, self.title, self.bars, self.subjects, _drive, logs_each=False)
        yield from case.rounds(with_echo, here)


def _drive(bench: Bench, subject: Subject, seconds: float) -> Load:
    load = clients.datagrams(bench.ground.cores, subject.tcp, seconds)
    pause(0.05)
    return load
