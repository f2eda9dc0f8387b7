"""What the labels of one object come to."""

from dataclasses import dataclass, field
from typing import Any

from weirgate.shared.config.codes import Code
from weirgate.shared.config.problem import Problem
from weirgate.shared.config.routes import Route
from weirgate.shared.config.tree import Spot

_MAX_SHOWN = 120

#: Data, and the place of each of its nodes.
Part = tuple[dict[str, Any], Spot]


@dataclass(frozen=True, slots=True)
class Spelling:
    """How messages write a label, as in ``label weirgate.pool``."""

    word: str
    prefix: str
    joint: str
    #: Words that mean something to the source alone, which takes these labels away.
    others: tuple[str, ...] = ()

    def write(self, key: str) -> str:
        """Write one label; what cannot be printed, or is too long, is not."""
        shown = "".join(c if c.isprintable() else "?" for c in key[:_MAX_SHOWN])
        return f"{self.prefix}{self.joint}{shown}{'…' if len(key) > _MAX_SHOWN else ''}"


@dataclass(frozen=True, slots=True)
class RoutePart:
    """A good route of a piece."""

    data: dict[str, Any]
    spot: Spot
    route: Route


@dataclass(slots=True)
class Piece:
    """What an object says; only what is good in itself."""

    name: str
    spelling: Spelling
    #: Where its port is said, or else its pool.
    place: Spot
    problems: list[Problem] = field(default_factory=list)
    #: Whether it has any effect: not where it says ``enable=false``, or is wrong as a whole.
    used: bool = True
    pool: str | None = None
    settings: Part | None = None
    endpoint: Part | None = None
    port: int | str | None = None
    routes: dict[str, RoutePart] = field(default_factory=dict)
    gateway: bool = False

    def refuse(
        self, code: Code, spot: Spot, got: str, wanted: str, hint: str = "", *, whole: bool = True
    ) -> None:
        """Add an error; with ``whole`` the object is left out."""
        self.problems.append(at_label(code, spot, got, wanted, hint))
        self.used = self.used and not whole


def at_label(code: Code, spot: Spot, got: str, wanted: str, hint: str = "") -> Problem:
    """Return an error in a label."""
    return Problem(code.id, "error", str(spot.file), 0, 0, "", got, wanted, hint or code.first_aid)


def endpoint_item(address: str, settings: Part | None, spot: Spot) -> Part:
    """Return an endpoint as the file would have it."""
    data, written = settings or ({}, spot)
    children = {"address": Spot(spot.file, 0, 0), **written.children}
    return {"address": address, **data}, Spot(spot.file, 0, 0, children=children)
