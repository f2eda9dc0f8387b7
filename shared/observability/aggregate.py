"""One set of metrics for the whole node, out of what each process reports.

Samples with equal labels are added. Counters must not fall when a process ends, or Prometheus
would take the fall for a reset and count the survivors twice: what an ended process had counted
is kept and added for ever, and a process that does not answer counts with its last answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from weirgate.shared.observability.prometheus import Family, Histogram, Labels

_FALLING = frozenset({"gauge"})


@dataclass(slots=True)
class _Seen:
    incarnation: int
    families: list[Family]
    fresh: bool


class Aggregate:
    """Remembers each process's last report."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._ended: list[Family] = []

    def report(self, process: str, incarnation: int, families: list[Family]) -> None:
        """Take a process's report; ``incarnation`` tells it from its predecessor of that name."""
        last = self._seen.get(process)
        if last is not None and last.incarnation != incarnation:
            self._retire(last.families)
        self._seen[process] = _Seen(incarnation, families, fresh=True)

    def missing(self, process: str) -> None:
        """Note that a process gave no answer: its gauges are unknown, its counters stand."""
        if process in self._seen:
            self._seen[process].fresh = False

    def ended(self, process: str) -> None:
        """Keep the counters of a process that has no successor of its name."""
        last = self._seen.pop(process, None)
        if last is not None:
            self._retire(last.families)

    def families(self) -> list[Family]:
        """Add everything up."""
        total: dict[str, Family] = {}
        _add(total, self._ended)
        for seen in self._seen.values():
            _add(total, (f for f in seen.families if seen.fresh or f.kind not in _FALLING))
        return list(total.values())

    def _retire(self, families: list[Family]) -> None:
        total: dict[str, Family] = {}
        _add(total, self._ended)
        _add(total, (family for family in families if family.kind not in _FALLING))
        self._ended = list(total.values())


def _add(total: dict[str, Family], families: Iterable[Family]) -> None:
    for family in families:
        target = total.setdefault(family.name, Family(family.name, family.kind, family.help))
        for labels, value in family.samples.items():
            _add_sample(target.samples, labels, value)


def _add_sample(
    samples: dict[Labels, float | Histogram], labels: Labels, value: float | Histogram
) -> None:
    present = samples.get(labels)
    if isinstance(value, Histogram):
        base = present if isinstance(present, Histogram) else Histogram({}, 0.0, 0.0)
        samples[labels] = _sum(base, value)
    elif isinstance(present, Histogram):
        samples[labels] = present  # two kinds under one name: the first one stands
    else:
        samples[labels] = (present or 0.0) + value


def _sum(left: Histogram, right: Histogram) -> Histogram:
    bounds = sorted(left.buckets.keys() | right.buckets.keys())
    buckets = {bound: _at(left, bound) + _at(right, bound) for bound in bounds}
    return Histogram(buckets, left.sum + right.sum, left.count + right.count)


def _at(histogram: Histogram, bound: float) -> float:
    """Count the observations at or below a bound, though it may be the other histogram's."""
    below = [known for known in histogram.buckets if known <= bound]
    return histogram.buckets[max(below)] if below else 0.0
