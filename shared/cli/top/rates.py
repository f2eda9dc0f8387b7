"""Two looks at a running node → rows with rates."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SAMPLE = re.compile(r"^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_SERVER_ERROR = 500
_STREAM = "weirgate_edge_stream_duration_seconds"

SORTS = ("rate", "connections", "errors", "latency", "name")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the metrics."""

    family: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a node said at one moment."""

    status: Mapping[str, Any]
    samples: Sequence[Sample]
    at: float = field(default_factory=time.monotonic)

    def total(self, family: str, **labels: str) -> float | None:
        """Add up the samples that carry these labels; ``None`` where there are none."""
        found = [s.value for s in self.samples if s.family == family and _carries(s, labels)]
        return sum(found) if found else None


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a listener, an endpoint or a gateway; ``None`` = nobody counts that."""

    kind: str
    name: str
    state: str
    connections: int | None
    in_flight: int | None
    #: Connections (listeners) or requests and streams (the others) a second.
    rate: float
    #: Refused or failed a second.
    errors: float | None
    latency_ms: float | None
    bytes_in: float | None = None
    bytes_out: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All of it, with the node's own figures."""

    seconds: float
    requests: float
    server_errors: float
    rows: Sequence[Row]


def parse(text: str) -> list[Sample]:
    """Read Prometheus text."""
    return [
        Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3]))
        for match in _SAMPLE.finditer(text)
    ]


def compare(before: Look, after: Look) -> View:
    """Make rows of two looks."""
    seconds = max(after.at - before.at, 1e-3)
    difference = _Difference(before, after, seconds)
    return View(
        seconds=seconds,
        requests=difference.per_second("weirgate_requests_total") or 0.0,
        server_errors=difference.server_errors(),
        rows=[*difference.listeners(), *difference.endpoints(), *difference.gateways()],
    )


def ordered(rows: Sequence[Row], kind: str, sort: str) -> list[Row]:
    """Return the rows of one kind, the largest first, names from A to Z."""
    chosen = sorted((row for row in rows if row.kind == kind), key=lambda row: row.name)
    if sort == "name":
        return chosen
    column = {"latency": "latency_ms"}.get(sort, sort)
    return sorted(chosen, key=lambda row: -(getattr(row, column) or 0.0))


class _Difference:
    def __init__(self, before: Look, after: Look, seconds: float) -> None:
        self._before = before
        self._after = after
        self._seconds = seconds

    def per_second(self, family: str, **labels: str) -> float | None:
        after = self._after.total(family, **labels)
        return None if after is None else self._rate(self._before.total(family, **labels), after)

    def server_errors(self) -> float:
        def errors(look: Look) -> float:
            return sum(
                s.value
                for s in look.samples
                if s.family == "weirgate_requests_total"
                and s.labels.get("status", "").isdigit()
                and int(s.labels["status"]) >= _SERVER_ERROR
            )

        return self._rate(errors(self._before), errors(self._after))

    def listeners(self) -> Iterator[Row]:
        seen = dict.fromkeys((v["name"], v["protocol"]) for v in self._after.status["listeners"])
        for name, protocol in seen:
            open_now = self._after.total("weirgate_edge_connections", listener=name)
            yield Row(
                kind="listener",
                name=name,
                state=protocol,
                connections=None if open_now is None else int(open_now),
                in_flight=None,
                rate=self.per_second("weirgate_edge_accepted_total", listener=name) or 0.0,
                errors=self.per_second("weirgate_edge_refused_total", listener=name) or 0.0,
                latency_ms=self._stream_ms(name),
                bytes_in=self._bytes("in", name, protocol),
                bytes_out=self._bytes("out", name, protocol),
            )

    def endpoints(self) -> Iterator[Row]:
        known = {e["id"]: e for pool in self._before.status["pools"] for e in pool["endpoints"]}
        for pool in self._after.status["pools"]:
            for entry in pool["endpoints"]:
                old = known.get(entry["id"], {})
                yield Row(
                    kind="endpoint",
                    name=f"{pool['name']}/{entry['address']}",
                    state="ejected" if entry["ejected"] else entry["state"],
                    connections=entry["connections"],
                    in_flight=entry["requests_in_flight"],
                    rate=self._rate(old.get("requests_total"), entry["requests_total"]),
                    errors=self._rate(old.get("connect_failures"), entry["connect_failures"]),
                    latency_ms=None,
                )

    def gateways(self) -> Iterator[Row]:
        known = {p["name"]: p for p in self._before.status["processes"]}
        for entry in self._after.status["processes"]:
            if entry["tier"] != "gateway":
                continue
            old = known.get(entry["name"], {})
            latency = entry["latency_us"]
            yield Row(
                kind="gateway",
                name=entry["name"],
                state=entry["state"],
                connections=entry["connections"],
                in_flight=entry["requests_in_flight"],
                rate=self._rate(old.get("requests_total"), entry["requests_total"]),
                errors=None,
                latency_ms=None if latency is None else latency / 1000,
            )

    def _stream_ms(self, listener: str) -> float | None:
        """Return how long the streams lasted that ended in between."""
        ended = self.per_second(f"{_STREAM}_count", listener=listener)
        lasted = self.per_second(f"{_STREAM}_sum", listener=listener)
        return lasted / ended * 1000 if ended and lasted is not None else None

    def _bytes(self, way: str, listener: str, protocol: str) -> float | None:
        """Return bytes a second; those of http listeners do not pass the edge."""
        if protocol == "http":
            return None
        return self.per_second(f"weirgate_edge_bytes_{way}_total", listener=listener)

    def _rate(self, before: float | None, after: float | None) -> float:
        """Return the rise a second; a counter that fell belongs to a process that began anew."""
        if after is None:
            return 0.0
        # what was not there before began at nothing
        return max(after - (before or 0.0), 0.0) / self._seconds


def _carries(sample: Sample, labels: Mapping[str, str]) -> bool:
    return all(sample.labels.get(name) == value for name, value in labels.items())
