"""The bars of the product and the verdict on each: pure arithmetic over the samples of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

WEIRGATE = "weirgate"
QUOTABLE_ROUNDS = 5


@dataclass
class Sample:
    """One subject under one load for one round."""

    case: str
    subject: str
    round: int
    values: dict[str, float]
    void: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """One line of the table: a value of Weirgate, alone or divided by that of the best peer."""

    id: str
    title: str
    case: str
    value: str
    must: float
    aim: float
    against: tuple[str, ...] = ()
    unit: str = "x"
    subject: str = WEIRGATE


PEERS = ("haproxy", "nginx", "envoy")

BARS = (
    Bar(
        "P1",
        "HTTP keep-alive, CPU a request / HAProxy",
        "keepalive",
        "cpu_us",
        0.90,
        0.80,
        ("haproxy",),
    ),
    Bar("P2", "the same / nginx", "keepalive", "cpu_us", 0.95, 0.82, ("nginx",)),
    Bar("P2", "the same / Envoy", "keepalive", "cpu_us", 0.30, 0.25, ("envoy",)),
    Bar(
        "P3",
        "one request a connection, both tiers / HAProxy",
        "close",
        "cpu_us",
        1.15,
        1.0,
        ("haproxy",),
    ),
    Bar(
        "P4",
        "edge's CPU a request, of the gateway's",
        "edge-share",
        "edge_percent",
        2.0,
        1.0,
        unit="%",
    ),
    Bar(
        "P5",
        "TLS 1.3 full handshake + request / HAProxy",
        "tls-full",
        "cpu_us",
        0.8,
        0.6,
        ("haproxy",),
    ),
    Bar(
        "P5", "TLS 1.3 resumed + request / HAProxy", "tls-resumed", "cpu_us", 1.0, 0.8, ("haproxy",)
    ),
    Bar("P6", "HTTPS keep-alive / HAProxy", "https", "cpu_us", 1.0, 0.85, ("haproxy",)),
    Bar("P7", "p99 at 512 connections / best peer", "p99", "p99_ms", 1.3, 1.0, PEERS),
    Bar(
        "P8",
        "tcp listener, CPU a connection / HAProxy",
        "tcp-close",
        "cpu_us",
        1.0,
        0.85,
        ("haproxy",),
    ),
    Bar(
        "P9",
        "tcp listener, CPU a GB / HAProxy (splice)",
        "tcp-bulk",
        "cpu_s_per_gb",
        1.1,
        1.0,
        ("haproxy",),
    ),
    Bar(
        "P9b",
        "HTTP bulk, CPU a GB / HAProxy (splice)",
        "http-bulk",
        "cpu_s_per_gb",
        1.3,
        1.0,
        ("haproxy",),
    ),
    Bar(
        "P10",
        "udp listener, CPU a datagram / nginx",
        "udp",
        "cpu_us",
        0.7,
        0.5,
        ("nginx-udp",),
        subject="weirgate-udp",
    ),
    Bar(
        "P11", "HTTP/2 and TLS, CPU a request / HAProxy", "http2", "cpu_us", 1.1, 0.9, ("haproxy",)
    ),
    Bar("P11", "the same / Envoy", "http2", "cpu_us", 0.5, 0.35, ("envoy",)),
    Bar(
        "P12",
        "5,000 routes / 5 routes, CPU a request",
        "routes",
        "cpu_us",
        1.1,
        1.03,
        ("weirgate-5",),
        subject="weirgate-5000",
    ),
    Bar(
        "P12",
        "gateway's RSS with 5,000 routes",
        "routes",
        "gateway_rss_mb",
        60,
        40,
        unit="MB",
        subject="weirgate-5000",
    ),
    Bar("P13", "memory an idle plain connection", "idle", "plain_kb", 12, 4, unit="KB"),
    Bar("P13", "memory an idle TLS connection", "idle", "tls_kb", 60, 35, unit="KB"),
    # Two connections each, one to the client and one to the endpoint.
    Bar("P13", "memory an idle WebSocket", "idle", "websocket_kb", 24, 8, unit="KB"),
    Bar("P15", "`weirgate up` to first answer", "startup", "startup_s", 1.5, 0.6, unit="s"),
    Bar("P15", "whole tree idle, PSS", "startup", "idle_pss_mb", 150, 90, unit="MB"),
)


@dataclass(frozen=True)
class Figure:
    """What came out for one bar; without a figure `middle` is None and `verdict` says why."""

    bar: Bar
    verdict: str
    middle: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0


def per_round(samples: Sequence[Sample], bar: Bar) -> list[float]:
    """The bar's value in each round in which both sides have a figure that is not void."""
    found: list[float] = []
    sound = [s for s in samples if s.case == bar.case and not s.void and bar.value in s.values]
    for number in sorted({sample.round for sample in sound}):
        values = {s.subject: s.values[bar.value] for s in sound if s.round == number}
        if bar.subject not in values:
            continue
        own = values[bar.subject]
        if not bar.against:
            found.append(own)
        elif all(peer in values for peer in bar.against):
            best = min(values[peer] for peer in bar.against)
            if best > 0:
                found.append(own / best)
    return found


def judge(value: float, must: float, aim: float) -> str:
    """Where a value stands; less is better for every bar."""
    if value <= aim:
        return "reached: aim"
    if value <= must:
        return "reached: must"
    return f"SHORT by {(value / must - 1) * 100:.0f} %"


def why_missing(samples: Sequence[Sample], bar: Bar, missing: dict[str, str]) -> str:
    """The reason that a bar has no figure, in words."""
    for subject in (bar.subject, *bar.against):
        name = subject.split("-")[0]
        if name in missing:
            return f"no figure: {name}: {missing[name]}"
    if bar.case in missing:
        return f"no figure: {missing[bar.case]}"
    mine = [s for s in samples if s.case == bar.case and s.subject in (bar.subject, *bar.against)]
    for sample in mine:
        if sample.void:
            return f"VOID: {sample.subject}: {sample.void[0]}"
    return "not run"


def assess(samples: Sequence[Sample], bar: Bar, missing: dict[str, str]) -> Figure:
    """Median, range and verdict of one bar."""
    values = per_round(samples, bar)
    if not values:
        return Figure(bar, why_missing(samples, bar, missing))
    middle = median(values)
    verdict = judge(middle, bar.must, bar.aim)
    voided = len({s.round for s in samples if s.case == bar.case and s.void})
    if voided:
        verdict += f" ({voided} rounds void)"
    return Figure(bar, verdict, middle, min(values), max(values), len(values))


def absolute(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of everything sound: case -> subject -> value -> median."""
    grouped: dict[str, dict[str, dict[str, list[float]]]] = {}
    for sample in samples:
        if sample.void:
            continue
        row = grouped.setdefault(sample.case, {}).setdefault(sample.subject, {})
        for name, value in sample.values.items():
            row.setdefault(name, []).append(value)
    return {
        case: {
            subject: {name: median(values) for name, values in row.items()}
            for subject, row in subjects.items()
        }
        for case, subjects in grouped.items()
    }
