"""Plain data read from YAML, with the place in a file of every node."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weirgate.shared.config.codes import Code
from weirgate.shared.config.problem import PathStep, Problem, Severity, render_path

_SHOWN_CHARACTERS = 60


@dataclass(slots=True)
class Spot:
    """Where a node stands; lines and columns count from 1.

    Of a label, ``line`` is 0 and ``file`` says whose label it is.
    ``raw`` is the text of a scalar before ``${…}`` was replaced. It stands in for the value in
    every message, because what comes from the environment may be a secret. A ``broken`` node was
    already reported, and nothing more is said about it.
    """

    file: Path
    line: int
    column: int
    key: tuple[int, int] | None = None
    raw: str | None = None
    broken: bool = False
    children: dict[PathStep, "Spot"] = field(default_factory=dict)

    def walk(self, path: Sequence[PathStep]) -> Iterator["Spot"]:
        """Yield this node and those on the way along ``path``, as far as it exists."""
        spot = self
        yield spot
        for step in path:
            child = spot.children.get(step)
            if child is None:
                return
            spot = child
            yield spot


@dataclass(slots=True)
class Tree:
    """Data and the place of each of its nodes; shared parts are never changed in place."""

    data: dict[str, Any]
    spot: Spot

    def nearest(self, path: Sequence[PathStep]) -> tuple[tuple[PathStep, ...], Spot]:
        """Return the deepest node on ``path`` that the user has written."""
        spots = list(self.spot.walk(path))
        return tuple(path[: len(spots) - 1]), spots[-1]

    def value(self, path: Sequence[PathStep]) -> Any:
        """Return what stands at ``path``, or ``None``."""
        value: Any = self.data
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value


class Report:
    """Collects problems and finds the place of each."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.problems: list[Problem] = []
        self._seen: set[tuple[str, tuple[PathStep, ...]]] = set()

    def add(
        self,
        code: Code,
        path: Sequence[PathStep],
        *,
        wanted: str = "",
        got: str | None = None,
        hint: str = "",
        severity: Severity = "error",
        at_key: bool = False,
        secret: bool = False,
    ) -> None:
        """Add a problem at the closest written node on ``path``; the same one is added once.

        ``got`` and ``hint`` are left out where they could show a value from the environment.
        """
        written, spot = self._tree.nearest(path)
        if spot.broken or (code.id, written) in self._seen:
            return
        self._seen.add((code.id, written))
        hidden = secret or spot.raw is not None
        if secret:
            got = "(hidden)"
        elif spot.raw is not None:
            got = describe(spot.raw)
        elif got is None:
            got = describe(self._tree.value(written))
        line, column = spot.key if at_key and spot.key else (spot.line, spot.column)
        self.problems.append(
            Problem(
                code=code.id,
                severity=severity,
                file=str(spot.file),
                line=line,
                column=column,
                path=render_path(written),
                got=got,
                wanted=wanted,
                hint=code.first_aid if hidden or not hint else hint,
                steps=written,
            )
        )

    def shown(self, path: Sequence[PathStep], value: str) -> str:
        """Return ``value``, or what was written at ``path`` where the environment gave it."""
        _, spot = self._tree.nearest(path)
        return value if spot.raw is None else spot.raw

    def where(self, path: Sequence[PathStep]) -> str:
        """Return ``file:line`` of the closest written node on ``path``."""
        _, spot = self._tree.nearest(path)
        return f"{spot.file}:{spot.line}" if spot.line else str(spot.file)


def describe(value: object) -> str:
    """Return a short form of a value for a message; what is inside containers is not shown."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer beyond what Python will print
        return "a huge number"
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[:_SHOWN_CHARACTERS] + ('…"' if isinstance(value, str) else "…")
