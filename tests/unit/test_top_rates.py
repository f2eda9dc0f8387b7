"""Two looks at a node become rates, in the order asked for, on 80 columns."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from weirgate.shared.cli.top.rates import SORTS, Look, View, compare, ordered, parse
from weirgate.shared.cli.top.screen import draw, number

METRICS = """# HELP x y
weirgate_requests_total{{route="a",status="200"}} {ok}
weirgate_requests_total{{route="a",status="503"}} {bad}
weirgate_edge_accepted_total{{listener="db"}} {accepted}
weirgate_edge_refused_total{{listener="db",reason="denied"}} {refused}
weirgate_edge_connections{{listener="db"}} 7
weirgate_edge_bytes_in_total{{listener="db"}} {accepted}000
weirgate_edge_stream_duration_seconds_bucket{{listener="db",le="+Inf"}} {accepted}
weirgate_edge_stream_duration_seconds_sum{{listener="db"}} {accepted}
weirgate_edge_stream_duration_seconds_count{{listener="db"}} {accepted}
"""


def status(*endpoints: tuple[str, int, int], requests: int = 0) -> dict[str, Any]:
    return {
        "listeners": [
            {"name": "web", "protocol": "http"}, {"name": "web", "protocol": "http"},
            {"name": "db", "protocol": "tcp"},
        ],
        "pools": [{"name": "p", "endpoints": [
            {"id": a, "address": a, "state": "up", "ejected": 0, "connections": 2,
             "requests_in_flight": 1, "requests_total": total, "connect_failures": failures}
            for a, total, failures in endpoints
        ]}],
        "processes": [
            {"name": "edge-0", "tier": "edge"},
            {"name": "gateway-0", "tier": "gateway", "state": "ready", "connections": 3,
             "requests_in_flight": 0, "requests_total": requests, "latency_us": 2500},
        ],
    }  # fmt: skip


def look(at: float, counts: dict[str, int], *endpoints: tuple[str, int, int], **more: int) -> Look:
    return Look(status(*endpoints, **more), parse(METRICS.format(**counts)), at)


@pytest.fixture
def view() -> View:
    zero = {"ok": 0, "bad": 0, "accepted": 100, "refused": 4}
    later = {"ok": 30, "bad": 10, "accepted": 120, "refused": 8}
    return compare(
        look(0, zero, ("slow:1", 10, 0), ("busy:1", 10, 5), ("anew:1", 50, 0), requests=5),
        look(2, later, ("slow:1", 12, 0), ("busy:1", 50, 9), ("anew:1", 3, 0), ("new:1", 8, 0),
             requests=45),
    )  # fmt: skip


def test_rates_are_rises_a_second(view: View) -> None:
    assert (view.requests, view.server_errors) == (20, 5)
    rows = {row.name: row for row in view.rows}
    assert list(rows) == [
        "web", "db", "p/slow:1", "p/busy:1", "p/anew:1", "p/new:1", "gateway-0"
    ]  # fmt: skip
    db = rows["db"]
    assert (db.connections, db.rate, db.errors, db.latency_ms) == (7, 10, 2, 1000)
    assert (db.bytes_in, db.bytes_out) == (10_000, None)
    assert rows["web"].bytes_in is None
    assert (rows["p/busy:1"].rate, rows["p/busy:1"].errors) == (20, 2)
    assert rows["p/anew:1"].rate == 0, "a counter that fell began anew"
    assert rows["p/new:1"].rate == 4
    assert (rows["gateway-0"].rate, rows["gateway-0"].latency_ms) == (20, 2.5)


def test_every_order_is_the_largest_first_and_names_from_a_to_z(view: View) -> None:
    assert [r.name for r in ordered(view.rows, "endpoint", "rate")][:2] == ["p/busy:1", "p/new:1"]
    assert ordered(view.rows, "endpoint", "errors")[0].name == "p/busy:1"
    assert ordered(view.rows, "listener", "latency")[0].name == "db"
    names = [r.name for r in ordered(view.rows, "endpoint", "name")]
    assert names == sorted(names)
    assert all(len(ordered(view.rows, "endpoint", sort)) == 4 for sort in SORTS)


def printed(view: View, height: int | None, trouble: str = "") -> list[str]:
    console = Console(file=StringIO(), width=80, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(draw(view, "rate", height, trouble))
    return capture.get().splitlines()


def test_it_fits_a_terminal_of_80_columns_and_24_lines(view: View) -> None:
    lines = printed(view, 24, "no answer")
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert "no answer" in lines[0]
    assert lines[-1].endswith("q quit")


@pytest.mark.parametrize("height", [12, 16, 24])
def test_what_does_not_fit_is_counted(height: int) -> None:
    many = [(f"host-{n:03}.example:1", 0, 0) for n in range(50)]
    counts = {"ok": 0, "bad": 0, "accepted": 0, "refused": 0}
    view = compare(look(0, counts, *many), look(1, counts, *many))
    lines = printed(view, height)
    assert len(lines) <= height
    shown = sum("host-" in line for line in lines)
    assert any(f"Endpoints ({50 - shown} more)" in line for line in lines)
    assert len(printed(view, None)) > 50


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (0.04, "0.0"), (2.5, "2.5"), (99.94, "99.9"), (100.4, "100"),
        (999.4, "999"), (999.6, "1.0k"), (12_345, "12.3k"), (5e6, "5M"), (2.5e9, "2.5G"),
        (1e18, "huge"),
    ],
)  # fmt: skip
def test_numbers_take_five_characters(value: float | None, text: str) -> None:
    assert number(value) == text
    assert len(text) <= 5
