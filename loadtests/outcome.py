"""Everything that is known of a run, as one JSON document; the page is drawn from it alone."""

import datetime as dt
import importlib.metadata
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from benchmarks import cpu

from loadtests.objectives import Objectives, as_dicts, judge
from loadtests.plan import Plan
from loadtests.scrape import Scraped
from loadtests.seconds import Second, by_class, total

#: What Locust counts, and the family of Weirgate's that counts the same.
SAME = (
    ("http", "HTTP requests, gRPC calls and WebSockets", "weirgate_requests_total"),
    ("tcp", "TCP connections", "weirgate_edge_accepted_total"),
    ("udp", "datagrams from clients", "weirgate_edge_datagrams_in_total"),
)
#: A difference up to this share is what was under way at the ends.
AGREES_WITHIN = 0.005
EDGE_COUNTERS = {
    "accepted": "weirgate_edge_accepted_total",
    "refused": "weirgate_edge_refused_total",
    "bytes in": "weirgate_edge_bytes_in_total",
    "bytes out": "weirgate_edge_bytes_out_total",
    "datagrams in": "weirgate_edge_datagrams_in_total",
    "datagrams out": "weirgate_edge_datagrams_out_total",
    "datagrams dropped": "weirgate_edge_datagrams_dropped_total",
}
NODE_COUNTERS = {
    "handed over to gateways": "weirgate_edge_handoffs_total",
    "TLS handshakes": "weirgate_tls_handshakes_total",
    "TLS sessions resumed": "weirgate_tls_resumed_total",
    "TLS handshakes failed": "weirgate_tls_handshake_failures_total",
    "WebSockets": "weirgate_upgrades_total",
    "connections to endpoints opened": "weirgate_upstream_connections_opened_total",
    "connections to endpoints reused": "weirgate_upstream_connections_reused_total",
    "requests sent again": "weirgate_upstream_retries_total",
    "requests queued": "weirgate_upstream_queued_total",
    "processes that were started again": "weirgate_child_restarts_total",
    "lines of the access log lost": "weirgate_access_log_lost_total",
}


def outcome(
    plan: Plan,
    seconds: Sequence[Second],
    locust: dict[str, Any],
    scraped: Scraped | None,
    objectives: Objectives,
    busy: float,
) -> dict[str, Any]:
    """Put it all together; `busy` is the share of the machine's cores that was in use."""
    cells = by_class(seconds)
    reasons = None if scraped is None else _by_reason(scraped)
    good_step = next((step for step in reversed(locust["steps"]) if not step["broken"]), None)
    if plan.shape == "step-to-failure":
        judged = judge(objectives, by_class(_of_step(good_step, seconds)))
    else:
        judged = judge(objectives, cells, reasons)
    holds = all(verdict.holds for verdict in judged) and (not locust["steps"] or bool(good_step))
    span_s = max(len(seconds), 1)
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "plan": asdict(plan),
        "passed": holds and not locust["crashes"] and bool(total(cells.values()).requests),
        "verdicts": as_dicts(judged),
        "last_good_step": good_step,
        "machine": cpu.machine() | {"busy_percent": round(100 * busy, 1)},
        "versions": versions(),
        "classes": {
            name: cell.as_dict(whole=False) | {"per_second": cell.requests / span_s}
            for name, cell in {**cells, "all": total(cells.values())}.items()
        },
        "locust": locust,
        "seconds": [_point(second) for second in seconds],
        "weirgate": None if scraped is None else _weirgate(scraped),
        "agreement": [] if scraped is None else _agreement(cells.values(), scraped, plan),
    }


def versions() -> dict[str, str]:
    """What took part."""
    names = ("weirgate", "locust", "gevent", "grpcio", "starlette", "uvicorn")
    return {name: importlib.metadata.version(name) for name in names} | {
        "python": platform.python_version()
    }


def _of_step(step: dict[str, Any] | None, seconds: Sequence[Second]) -> list[Second]:
    """The seconds by which a climb is judged: its last good step. The one after it is to break."""
    if step is None:
        return []
    return [second for second in seconds if step["first"] <= second.at <= step["last"]]


def _point(second: Second) -> dict[str, Any]:
    return {"at": second.at, "users": second.users} | second.total().as_dict(whole=False)


def _by_reason(scraped: Scraped) -> dict[str, float]:
    found: Counter[str] = Counter()
    for family in ("weirgate_reasons_total", "weirgate_edge_refused_total"):
        for (reason,), count in scraped.by_label(family, "reason").items():
            found[reason] += int(count)
    found.pop("", None)
    return dict(found)


def _weirgate(scraped: Scraped) -> dict[str, Any]:
    """By tier: what the edge counted by listener, and the gateways by route and endpoint."""
    per_second = scraped.per_second("weirgate_endpoint_requests_total", "pool", "endpoint")
    silent = sum(not moment.answered for moment in scraped.moments)
    return {
        "sources": scraped.sources,
        "silent_scrapes": silent,
        "listeners": _table(scraped, EDGE_COUNTERS, "source", "listener"),
        "routes": _routes(scraped),
        "endpoints": _table(
            scraped,
            {
                "requests": "weirgate_endpoint_requests_total",
                "connect failures": "weirgate_endpoint_connect_failures_total",
            },
            *("source", "pool", "endpoint"),
        ),
        "reasons": _by_reason(scraped),
        "node": {name: scraped.increase(family) for name, family in NODE_COUNTERS.items()},
        "endpoints_by_second": {at: dict(counts) for at, counts in sorted(per_second.items())},
    }


def _table(scraped: Scraped, columns: dict[str, str], *labels: str) -> list[dict[str, Any]]:
    """A row for each set of labels, a column for each family."""
    rows: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for column, family in columns.items():
        for key, value in scraped.by_label(family, *labels).items():
            rows[key][column] = value
    return [
        {**dict(zip(labels, key, strict=True)), **{c: values.get(c, 0.0) for c in columns}}
        for key, values in sorted(rows.items())
    ]


def _routes(scraped: Scraped) -> list[dict[str, Any]]:
    statuses: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (source, route, status), count in scraped.by_label(
        "weirgate_requests_total", "source", "route", "status"
    ).items():
        statuses[source, route][status] = count
    family = "weirgate_request_duration_seconds_bucket"
    buckets: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for (source, route, bound), count in scraped.by_label(family, "source", "route", "le").items():
        buckets[source, route][float(bound)] = count
    return [
        {
            "source": source,
            "route": route or "(none matched)",
            "requests": sum(counts.values()),
            "statuses": counts,
            "p50_ms": histogram_quantile_ms(buckets[source, route], 0.50),
            "p99_ms": histogram_quantile_ms(buckets[source, route], 0.99),
        }
        for (source, route), counts in sorted(statuses.items())
    ]


def histogram_quantile_ms(buckets: dict[float, float], share: float) -> float | None:
    """Estimate a quantile from cumulative counts by upper bound in seconds, as Prometheus does."""
    points = [(0.0, 0.0), *sorted(buckets.items())]
    wanted = share * points[-1][1]
    if not wanted:
        return None
    for (low, below), (high, upto) in pairwise(points):
        if upto >= wanted:
            if high == float("inf"):
                return 1000 * low  # all that is known: longer than that
            return 1000 * (low + (high - low) * (wanted - below) / max(upto - below, 1e-9))
    return None


def _agreement(cells: Iterable[Any], scraped: Scraped, plan: Plan) -> list[dict[str, Any]]:
    """Compare what both sides have counted."""
    expected = total(cells).expected
    rows = []
    for kind, name, family in SAME:
        if not expected[kind]:
            continue
        # Each connection of web users is accepted, too, but on other listeners.
        seen = _accepted_of_streams(scraped) if kind == "tcp" else scraped.increase(family)
        apart = abs(seen - expected[kind])
        rows.append(
            {
                "what": name,
                "locust": expected[kind],
                "weirgate": int(seen),
                "family": family,
                "agrees": apart <= max(AGREES_WITHIN * expected[kind], len(plan.classes)),
            }
        )
    return rows


def _accepted_of_streams(scraped: Scraped) -> float:
    """The connections of tcp listeners."""
    accepted = scraped.by_label("weirgate_edge_accepted_total", "source", "listener")
    return sum(n for (s, name), n in accepted.items() if scraped.protocols.get((s, name)) == "tcp")
