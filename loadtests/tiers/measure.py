"""The load: each measurement puts the ways to use by turns, and says what each did."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.clients import Load, wrk
from benchmarks.netns import Cores, pinned

from loadtests.tiers.ways import Way

#: Requests a second of the measurement of latency; far below what any way can do.
RATE = 500
CONNECTIONS = 16


@dataclass(frozen=True)
class Sample:
    """One way in one round of one measurement."""

    measurement: str
    way: str
    round: int
    values: dict[str, float]
    errors: dict[str, int]


def rounds(
    ways: Sequence[Way], cores: Cores, seconds: float, count: int, only: Sequence[str]
) -> Iterator[Sample]:
    """Measure these things so many times, after a round that is thrown away; ways alternate.

    Of a single round nothing is thrown away: it is not to be quoted anyway.
    """
    for number in range(0 if count > 1 else 1, count + 1):
        for name in only:
            for way in ways:
                values, errors = MEASUREMENTS[name](way, cores, seconds if number else 1)
                if number:
                    yield Sample(name, way.name, number, values, errors)


def _paced(way: Way, cores: Cores, seconds: float) -> tuple[dict[str, float], dict[str, int]]:
    """One connection at a fixed rate, by a client of our own."""
    command = [sys.executable, "-m", "loadtests.tiers.paced", str(way.port), str(seconds)]
    with pinned(cores.client):
        said = subprocess.run(command, check=True, capture_output=True, timeout=120)
    seen = json.loads(said.stdout)
    return {"p50_us": seen["p50_us"], "p99_us": seen["p99_us"]}, {}


def _wrk(
    connections: int, path: str = "/", *, close: bool = False
) -> Callable[[Way, Cores, float], tuple[dict[str, float], dict[str, int]]]:
    def drive(way: Way, cores: Cores, seconds: float) -> tuple[dict[str, float], dict[str, int]]:
        before_s = way.cpu_seconds()
        load: Load = wrk(cores, way.port, seconds, connections=connections, close=close, path=path)
        spent_s = way.cpu_seconds() - before_s
        values = {
            "per_second": load.values["per_second"],
            "p50_us": 1000 * load.values["p50_ms"],
            "p99_us": 1000 * load.values["p99_ms"],
            "cpu_us": 1e6 * spent_s / load.work if load.work else 0.0,
        }
        return values, {name: count for name, count in load.errors.items() if count}

    return drive


MEASUREMENTS: dict[str, Callable[[Way, Cores, float], tuple[dict[str, float], dict[str, int]]]] = {
    "paced": _paced,
    "one": _wrk(1),
    "sixteen": _wrk(CONNECTIONS),
    "large": _wrk(CONNECTIONS, "/64k.bin"),
    "connections": _wrk(CONNECTIONS, close=True),
}


@dataclass(frozen=True)
class Figure:
    """The median of the rounds, and their lowest and highest."""

    median: float
    low: float
    high: float


def figure(values: Sequence[float]) -> Figure:
    """Put the rounds together."""
    return Figure(statistics.median(values), min(values), max(values))


def added(samples: Sequence[Sample], measurement: str, way: str, value: str) -> Figure:
    """What a way costs more than the direct one, taken within each round."""
    by_round = {(s.round, s.way): s.values[value] for s in samples if s.measurement == measurement}
    numbers = sorted({number for number, _ in by_round})
    return figure([by_round[n, way] - by_round[n, "direct"] for n in numbers])


def of(samples: Sequence[Sample], measurement: str, way: str, value: str) -> Figure:
    """One figure of a way."""
    return figure(
        [s.values[value] for s in samples if (s.measurement, s.way) == (measurement, way)]
    )


def errors(samples: Sequence[Sample]) -> list[str]:
    """What went wrong, in words; figures of such rounds are not to be believed."""
    return [
        f"{s.measurement}, {s.way}, round {s.round}: {name} {count}"
        for s in samples
        for name, count in s.errors.items()
    ]


def budget_s(seconds: float, count: int, only: Sequence[str]) -> float:
    """About how long `rounds` takes."""
    return (seconds * count + (count > 1)) * len(only) * 4


def stamp() -> str:
    """Today, for the page."""
    return time.strftime("%Y-%m-%d", time.gmtime())
