"""Data → model, piece by piece: one bad piece does not hide what is wrong with the others."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.schema import Config
from weirgate.shared.config.translate import translate
from weirgate.shared.config.tree import Report, Tree

_PIECES = frozenset({"listeners", "pools", "routes"})


@dataclass(frozen=True, slots=True)
class Validated:
    """The good pieces; ``route_indices`` gives the place of each route in the file."""

    config: Config
    route_indices: list[int]


def validate(tree: Tree, report: Report) -> Validated | None:
    """Check the data against the schema; what fails is reported and left out."""
    routes = tree.data.get("routes")
    indices = list(range(len(routes))) if isinstance(routes, list) else []
    try:
        return Validated(Config.model_validate(tree.data), indices)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    for details in errors:
        translate(details, tree, report)
    failed = {details["loc"][:2] for details in errors}
    kept = [index for index in indices if ("routes", index) not in failed]
    try:
        return Validated(Config.model_validate(_without(tree.data, failed, kept)), kept)
    except ValidationError:  # nothing that can be used is left
        return None


def _without(
    data: dict[str, Any], failed: set[tuple[PathStep, ...]], kept: list[int]
) -> dict[str, Any]:
    whole = {loc[0] for loc in failed if loc[0] not in _PIECES or len(loc) == 1}
    rest: dict[str, Any] = {}
    for key, value in data.items():
        if key in whole:
            continue
        if key == "routes":
            rest[key] = [value[index] for index in kept]
        elif key in _PIECES:
            rest[key] = {n: v for n, v in value.items() if (key, n) not in failed}
        else:
            rest[key] = value
    return rest
