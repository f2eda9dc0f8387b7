"""What a run has to keep to, and whether it did."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtests.seconds import QUANTILES, Cell, total

ALL = "all"
Percent = Annotated[float, Field(ge=0, le=100)]
Milliseconds = Annotated[float, Field(gt=0)]


class ObjectivesError(Exception):
    """The file of objectives cannot be read; the text says why."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Objective(_Model):
    """For one user class, or for `all` together; what is not given is not judged."""

    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    #: Of all requests.
    failures_percent: Percent | None = None
    #: By message, or a part of it: at most so many percent of all requests.
    failures: dict[str, Percent] = {}


class Objectives(_Model):
    """The whole file."""

    users: dict[str, Objective] = {}
    #: By Weirgate's reason, or "*" for each that is not named: at most so many percent of requests.
    reasons: dict[str, Percent] = {}


@dataclass(frozen=True)
class Verdict:
    """One limit, and what was measured."""

    who: str
    what: str
    limit: float
    measured: float | None

    @property
    def holds(self) -> bool:
        """Whether it was kept; what was not measured, such as a class without requests, was not."""
        return self.measured is not None and self.measured <= self.limit

    @property
    def text(self) -> str:
        """In words."""
        seen = "nothing measured" if self.measured is None else f"{self.measured:.3g}"
        return f"{self.who} {self.what}: {seen}, at most {self.limit:g}"


def read_objectives(file: str | Path) -> Objectives:
    """Read a file.

    Raises:
        ObjectivesError: It cannot be read, or says what nobody understands.
    """
    try:
        return Objectives.model_validate(yaml.safe_load(Path(file).read_text()) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ObjectivesError(f"{file}: {error}") from error


def judge(
    objectives: Objectives,
    cells: Mapping[str, Cell],
    reasons: Mapping[str, float] | None = None,
) -> list[Verdict]:
    """Compare the cells of a time, by class, with the objectives of the classes that took part.

    `reasons` is how often Weirgate gave which reason; None = nobody asked it.
    """
    everything = total(cells.values())
    verdicts: list[Verdict] = []
    for name, objective in objectives.users.items():
        cell = everything if name == ALL else cells.get(name)
        if cell is not None:
            verdicts += _of_class(name, objective, cell)
    if reasons is not None:
        verdicts += _of_reasons(objectives.reasons, reasons, everything.requests)
    return verdicts


def _of_class(name: str, objective: Objective, cell: Cell) -> Iterable[Verdict]:
    for quantile, share in QUANTILES.items():
        limit = getattr(objective, quantile)
        if limit is not None:
            yield Verdict(name, quantile, limit, cell.quantile_ms(share))
    if objective.failures_percent is not None:
        seen = _percent(cell.failed, cell.requests)
        yield Verdict(name, "failures_percent", objective.failures_percent, seen)
    for words, limit in objective.failures.items():
        count = sum(n for message, n in cell.failures.items() if words in message)
        yield Verdict(name, f"failures {words!r} in percent", limit, _percent(count, cell.requests))


def _of_reasons(
    limits: Mapping[str, float], reasons: Mapping[str, float], requests: int
) -> Iterable[Verdict]:
    rest = limits.get("*")
    named = {name: limit for name, limit in limits.items() if name != "*"}
    if rest is not None:
        named = dict.fromkeys(reasons, rest) | named
    for name, limit in named.items():
        yield Verdict(
            "weirgate", f"reason {name} in percent", limit, _percent(reasons.get(name, 0), requests)
        )


def _percent(count: float, of: float) -> float | None:
    return 100 * count / of if of else None


def as_dicts(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"who": v.who, "what": v.what, "limit": v.limit, "measured": v.measured, "holds": v.holds}
        for v in verdicts
    ]
