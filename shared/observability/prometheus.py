"""Metric families, and their rendering as Prometheus text format 0.0.4."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Histogram:
    """Cumulative counts by upper bound, without the ``+Inf`` bucket: that one is ``count``."""

    buckets: dict[float, float]
    sum: float
    count: float


@dataclass(slots=True)
class Family:
    """One metric: its name, kind and samples by label set."""

    name: str
    kind: str
    help: str
    samples: dict[Labels, float | Histogram] = field(default_factory=dict)

    def set(self, value: float, **labels: str) -> None:
        """Set the sample with these labels."""
        self.samples[tuple(sorted(labels.items()))] = value


def parse(document: Iterable[Mapping[str, Any]]) -> list[Family]:
    """Read the families that a data plane reports (docs/contracts.md, section 6)."""
    families = []
    for entry in document:
        family = Family(entry["name"], entry["kind"], entry["help"])
        for sample in entry["samples"]:
            labels = tuple(sorted((str(k), str(v)) for k, v in sample["labels"].items()))
            family.samples[labels] = _sample(sample)
        families.append(family)
    return families


def render(families: Iterable[Family]) -> str:
    """Render families in the order of their names, so that two scrapes compare line by line."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for labels, value in sorted(family.samples.items(), key=lambda sample: sample[0]):
            lines += _lines(family.name, labels, value)
    return "\n".join(lines) + "\n" if lines else ""


def _sample(sample: Mapping[str, Any]) -> float | Histogram:
    if "buckets" not in sample:
        return float(sample["value"])
    buckets = {float(bound): float(count) for bound, count in sample["buckets"]}
    return Histogram(buckets, float(sample["sum"]), float(sample["count"]))


def _lines(name: str, labels: Labels, value: float | Histogram) -> Iterable[str]:
    if not isinstance(value, Histogram):
        yield f"{name}{_labels(labels)} {_number(value)}"
        return
    for bound, count in sorted(value.buckets.items()):
        if bound != float("inf"):
            yield f"{name}_bucket{_labels(labels, _number(bound))} {_number(count)}"
    yield f"{name}_bucket{_labels(labels, '+Inf')} {_number(value.count)}"
    yield f"{name}_sum{_labels(labels)} {_number(value.sum)}"
    yield f"{name}_count{_labels(labels)} {_number(value.count)}"


def _labels(labels: Labels, bound: str | None = None) -> str:
    pairs = [f'{name}="{_escape_label(value)}"' for name, value in labels]
    if bound is not None:
        pairs.append(f'le="{bound}"')
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
