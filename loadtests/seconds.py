"""What happened in one second of load, by user class; made in Locust, read everywhere.

Times are kept as counts of rounded values, so that seconds, workers and classes can be added up and
a percentile of the sum is still right to three digits.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}


@dataclass
class Cell:
    """The requests that ended in one second, of one user class or of all."""

    requests: int = 0
    #: How many failed, by message.
    failures: Counter[str] = field(default_factory=Counter)
    #: How many took so many milliseconds (three digits).
    times_ms: Counter[float] = field(default_factory=Counter)
    #: What Weirgate should have counted of it: http, tcp (connections), udp (datagrams).
    expected: Counter[str] = field(default_factory=Counter)

    def add(self, took_ms: float, failure: str, kind: str = "") -> None:
        """Count one request; an empty failure is a success."""
        self.requests += 1
        self.times_ms[rounded(took_ms)] += 1
        if failure:
            self.failures[failure] += 1
        if kind:
            self.expected[kind] += 1

    def include(self, other: "Cell") -> None:
        """Add another cell to this one."""
        self.requests += other.requests
        self.failures.update(other.failures)
        self.times_ms.update(other.times_ms)
        self.expected.update(other.expected)

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return self.failures.total()

    def quantile_ms(self, share: float) -> float | None:
        """The time within which this share of the requests had ended; None = there were none."""
        wanted, seen = share * self.requests, 0
        for took_ms, count in sorted(self.times_ms.items()):
            seen += count
            if seen >= wanted:
                return took_ms
        return None

    def as_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """For JSON; `whole` with the counts of times, which `from_dict` needs."""
        data: dict[str, Any] = {"requests": self.requests, "failures": dict(self.failures)}
        data |= {name: self.quantile_ms(share) for name, share in QUANTILES.items()}
        if whole:
            data["times_ms"] = [[took_ms, count] for took_ms, count in self.times_ms.items()]
            data["expected"] = dict(self.expected)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Cell":
        """Read what `as_dict` has written whole."""
        times = Counter(dict(data["times_ms"]))
        return cls(data["requests"], Counter(data["failures"]), times, Counter(data["expected"]))


def rounded(took_ms: float) -> float:
    """Three digits, and nothing below a hundredth of a millisecond."""
    return round(float(f"{took_ms:.3g}"), 2)


@dataclass
class Second:
    """One second of a run."""

    at: int  # since the epoch
    users: int = 0
    by_class: dict[str, Cell] = field(default_factory=lambda: defaultdict(Cell))

    def total(self) -> Cell:
        """All classes together."""
        return total(self.by_class.values())

    def line(self) -> str:
        """One line of JSON."""
        whole = self.total()
        data = {"at": self.at, "users": self.users} | whole.as_dict(whole=False)
        data["by_class"] = {name: cell.as_dict() for name, cell in self.by_class.items()}
        return json.dumps(data) + "\n"


def read_seconds(file: Path) -> list[Second]:
    """Read the whole lines of a file that may still be growing."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text().split("\n")[:-1]:
        data = json.loads(line)
        cells = {name: Cell.from_dict(cell) for name, cell in data["by_class"].items()}
        found.append(Second(data["at"], data["users"], cells))
    return found


def total(cells: Iterable[Cell]) -> Cell:
    """The sum of some cells."""
    summed = Cell()
    for cell in cells:
        summed.include(cell)
    return summed


def by_class(seconds: Iterable[Second]) -> dict[str, Cell]:
    """The sum of some seconds for each class."""
    summed: dict[str, Cell] = defaultdict(Cell)
    for second in seconds:
        for name, cell in second.by_class.items():
            summed[name].include(cell)
    return dict(summed)
