"""A node's status as tables."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {"up": "green", "ready": "green", "down": "red", "draining": "yellow"}

Row = Mapping[str, Any]


def show(status: Row, console: Console | None = None) -> None:
    """Print the tables."""
    console = console or Console(highlight=False)
    state = "draining" if status["draining"] else "ready" if status["ready"] else "not ready"
    console.print(
        Text(f"weirgate {_role(status)}{status['version']} · "),
        _state(state),
        Text(f" · generation {status['generation']} · up {_duration(status['uptime_seconds'])}"),
        sep="",
    )
    console.print(_processes(status["processes"]))
    console.print(_listeners(status["listeners"]))
    for pool in status["pools"]:
        console.print(_pool(pool))
        for row in pool["endpoints"]:
            if row["last_error"] and row["state"] != "up":
                console.print(Text(f"  {row['address']}: {row['last_error']}", style="red"))
    _show_discovery(status.get("discovery", ()), console)


def _role(status: Row) -> str:
    role = status.get("role", "up")
    return "" if role == "up" else f"{role} "


def _processes(rows: Sequence[Row]) -> Table:
    table = _table("Processes", "process", "state")
    _numbers(table, "pid", "up", "restarts", "connections", "in flight", "requests", "memory")
    for row in rows:
        table.add_row(
            row["name"],
            _drained(_state(row["state"]), row),
            *_cells(row, "pid"),
            _duration(row["uptime_seconds"]),
            *_cells(row, "restarts", "connections", "requests_in_flight", "requests_total"),
            _mebibytes(row["resident_bytes"]),
        )
    return table


def _listeners(rows: Sequence[Row]) -> Table:
    table = _table("Listeners", "listener", "address", "protocol")
    _numbers(table, "connections", "accepted", "refused")
    for row in rows:
        protocol = row["protocol"] + (
            " over TLS" if row["tls"] and row["protocol"] == "http" else ""
        )
        counts = _cells(row, "connections", "accepted_total", "refused_total")
        table.add_row(row["name"], row["address"], protocol, *counts)
    return table


def _pool(pool: Row) -> Table:
    table = _table(f"Pool {pool['name']} ({pool['balance']})", "endpoint", "state")
    _numbers(table, "weight", "connections", "in flight", "requests", "failed connects")
    for row in pool["endpoints"]:
        counts = ("weight", "connections", "requests_in_flight", "requests_total")
        table.add_row(
            row["address"],
            _endpoint_state(row),
            *_cells(row, *counts, "connect_failures"),
        )
    return table


def _show_discovery(rows: Sequence[Row], console: Console) -> None:
    if not rows:
        return
    table = _table("Discovery", "source", "state", "since")
    _numbers(table, "objects", "with problems")
    for row in rows:
        colours = {"ok": "green", "error": "red"}
        state = Text(row["state"], style=colours.get(row["state"], "yellow"))
        ago = f"{_duration(max(time.time() - row['since'], 0))} ago"
        table.add_row(row["source"], state, ago, str(row["objects"]), str(len(row["problems"])))
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(Text(f"  {row['source']}: {row['error']}", style="red"))
        for name, state in row["not_up"].items():
            console.print(Text(f"  {name}: {state}", style="yellow"))
        for problems in row["problems"].values():
            for problem in problems:
                console.print(Text(f"  {problem}", style="red"))


def _endpoint_state(row: Row) -> Text:
    if row["state"] == "unknown" and not row["checked"]:
        return Text("not checked", style="dim")
    text = _drained(_state(row["state"]), row)
    if row["ejected"]:
        text.append(f", ejected by {row['ejected']}", style="yellow")
    return text


def _drained(text: Text, row: Row) -> Text:
    """Add who ordered a drain, and how long ago."""
    order = row.get("drain")
    if order:
        ago = _duration(max(time.time() - order["since"], 0))
        text.append(f" by {order['by']}, {ago} ago", style="yellow")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _numbers(table: Table, *columns: str) -> None:
    for column in columns:
        table.add_column(column, justify="right")


def _cells(row: Row, *names: str) -> Iterable[str]:
    return ["-" if row[name] is None else str(row[name]) for name in names]


def _state(state: str) -> Text:
    return Text(state, style=STYLES.get(state, "yellow"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole / size:.1f}{unit}"
    return f"{whole}s"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB"
