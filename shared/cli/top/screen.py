"""Rows → tables that fit a terminal of 80 columns."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from weirgate.shared.cli.tables import STYLES
from weirgate.shared.cli.top.rates import Row, View, ordered

_KINDS = {"listener": "Listeners", "endpoint": "Endpoints", "gateway": "Gateways"}
_NAME_WIDTH = 30
#: A table's title and its head.
_FRAME_LINES = 2
_THOUSAND = 1000.0


def draw(view: View, sort: str, height: int | None = None, trouble: str = "") -> RenderableType:
    """Draw everything; with a height, what does not fit it is counted, and the keys are shown."""
    head = Text.assemble(
        ("weirgate top", "bold"),
        f"  {number(view.requests)} requests/s  {number(view.server_errors)} 5xx/s  by {sort}",
    )
    if trouble:
        head.append(f"  {trouble}", style="red")
    parts: list[RenderableType] = [head]
    shown = {kind: ordered(view.rows, kind, sort) for kind in _KINDS}
    shown = {kind: rows for kind, rows in shown.items() if rows}
    # one line for the head, one for the keys
    lines = sum(map(len, shown.values())) if height is None else height - 2
    room = max(lines - (0 if height is None else _FRAME_LINES * len(shown)), len(shown))
    for index, (kind, rows) in enumerate(shown.items()):
        share = _share([len(r) for r in list(shown.values())[index:]], room)
        room -= share
        parts.append(_table(_KINDS[kind], rows, share))
    if height is not None:
        parts.append(
            Text("r rate  c connections  e errors  l latency  n name  q quit", style="dim")
        )
    return Group(*parts)


def _share(sizes: Sequence[int], room: int) -> int:
    """Return how many lines the first table gets, so that those behind it get theirs."""
    others = sum(min(size, max(room // len(sizes), 1)) for size in sizes[1:])
    return max(min(sizes[0], room - others), 1)


def _table(title: str, rows: Sequence[Row], lines: int) -> Table:
    hidden = max(len(rows) - lines, 0)
    if hidden:
        title = f"{title} ({hidden} more)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=_NAME_WIDTH)
    table.add_column("state", no_wrap=True, width=8)
    for column in ("conns", "busy", "/s", "err/s", "ms", "in/s", "out/s"):
        table.add_column(column, justify="right", no_wrap=True, width=5)
    for row in rows[:lines]:
        table.add_row(
            row.name,
            Text(row.state, style=STYLES.get(row.state, "")),
            *(
                number(value)
                for value in (
                    row.connections, row.in_flight, row.rate, row.errors, row.latency_ms,
                    row.bytes_in, row.bytes_out,
                )
            ),
        )  # fmt: skip
    return table


def number(value: float | None) -> str:
    """Write a number in at most five characters."""
    if value is None:
        return "-"
    for unit in ("", "k", "M", "G", "T"):
        if value < _THOUSAND - 0.5:
            whole = value >= 100 or value == int(value)
            return f"{value:.0f}{unit}" if whole else f"{value:.1f}{unit}"
        value /= _THOUSAND
    return "huge"
