"""Pieces of many objects and the file → one tree; who is wrong there is left out alone.

The file is the stronger authority, and of two objects the one that a source names first. The whole
is judged by the machinery that judges the file: an error that stands in a label is shown against
its object, what it is about is left out, and the rest is judged again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from weirgate.shared.config import codes
from weirgate.shared.config.discovered_tree import MergedTree, Unit
from weirgate.shared.config.discovery import SPELLING
from weirgate.shared.config.label_piece import Piece, Spelling, at_label
from weirgate.shared.config.labels import read_labels
from weirgate.shared.config.loader import Loaded, check_again
from weirgate.shared.config.problem import ConfigErrors, Problem
from weirgate.shared.config.tree import Spot
from weirgate.shared.discovery.found import Found

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_OBJECTS = 10_000
#: Each round leaves something out, and a round finds all that can be found at once.
_MAX_ROUNDS = 50

#: Objects that are found to be at fault by trying, before all are left out.
_MAX_CULPRITS = 8

AllFound = Mapping[str, Sequence[Found]]
Object = tuple[Found, Piece]


@dataclass(frozen=True, slots=True)
class Discovered:
    """What came of the objects: how many there are, and what is wrong with them."""

    #: By kind of source.
    objects: Mapping[str, int] = field(default_factory=dict)
    #: By kind of source, then by the name of the object.
    problems: Mapping[str, Mapping[str, tuple[Problem, ...]]] = field(default_factory=dict)


class LabelReader:
    """Reads labels, and remembers what it read: few objects change at a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Spelling], tuple[Mapping[str, str], Piece]] = {}

    def read(self, loaded: Loaded, found: AllFound) -> dict[str, list[Object]]:
        """Return the objects with what they say, by kind of source."""
        section = loaded.config.discovery
        prefixes = section.prefixes() if section else {}
        known, self._known = self._known, {}
        pieces: dict[str, list[Object]] = {}
        for kind, prefix in prefixes.items():
            words = SPELLING[kind]
            spelling = Spelling(words.word, prefix, words.joint, words.others)
            pieces[kind] = []
            for each in found.get(kind, ())[:MAX_OBJECTS]:
                key = (each.name, spelling)
                labels, piece = known.get(key, (None, None))
                if piece is None or labels != each.labels:
                    piece = _read(each, spelling)
                self._known[key] = (each.labels, piece)
                pieces[kind].append((each, piece))
        return pieces


def _read(found: Found, spelling: Spelling) -> Piece:
    try:
        return read_labels(found.name, found.labels, spelling)
    except Exception as error:  # noqa: BLE001 - a bug met by one object must not stop all others
        piece = Piece(found.name, spelling, Spot(Path(found.name), 0, 0))
        got = f"labels that make an error in Weirgate ({type(error).__name__}: {error})"
        piece.refuse(codes.DISCOVERED, piece.place, got, "others, and a report of this one")
        return piece


def with_discovered(
    loaded: Loaded,
    pieces: Mapping[str, Sequence[Object]],
    judge: Callable[[Loaded], T],
) -> tuple[T, Discovered]:
    """Put what objects say into a configuration.

    Args:
        loaded: What the file says.
        pieces: The objects, by kind of source.
        judge: Makes of a configuration what is wanted, or refuses it; called until it is content.

    Raises:
        ConfigErrors: The file itself is refused.
    """
    everything = [item for items in pieces.values() for item in items if item[1].used]
    refused: list[Piece] = []
    settled = _settled(loaded, everything, judge)
    if settled is None:
        result = judge(loaded)  # where the file alone is at fault, this says so
        while settled is None and everything and len(refused) < _MAX_CULPRITS:
            culprit = _culprit(loaded, everything, judge)
            refused.append(everything.pop(culprit)[1])
            settled = _settled(loaded, everything, judge)
        if settled is None:
            refused += [piece for _, piece in everything]
            settled = result, []
    result, further = settled
    return result, _summary(pieces, [*further, *((p.name, _unknown(p)) for p in refused)])


def _settled(
    loaded: Loaded, objects: Sequence[Object], judge: Callable[[Loaded], T]
) -> tuple[T, list[tuple[str, Problem]]] | None:
    """Leave out what is wrong until the judge is content; ``None`` where no label is to blame."""
    blamed: dict[str, list[Problem]] = {}
    left_out: set[Unit] = set()
    for _ in range(_MAX_ROUNDS):
        merged = MergedTree(loaded, objects, left_out)
        try:
            whole = check_again(loaded, merged.tree)
            owned, others = _sorted_out(merged, whole.warnings)
            result = judge(replace(whole, warnings=others))
        except ConfigErrors as error:
            wrong, _ = _sorted_out(merged, error.problems)
            if not wrong:
                break
            _blame(blamed, wrong)
            left_out |= {unit for unit, _, _ in wrong}
            continue
        except Exception:  # what no rule had foreseen is some object's all the same
            if not objects:
                raise
            log.exception("labels cannot be judged")
            break
        _blame(blamed, owned)
        return result, [*merged.problems, *_flat(blamed)]
    return None


def _culprit(loaded: Loaded, objects: Sequence[Object], judge: Callable[[Loaded], T]) -> int:
    """Return the place of the first object with which the whole is refused."""
    good, bad = 0, len(objects)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _settled(loaded, objects[:middle], judge) is None:
            bad = middle
        else:
            good = middle
    return bad - 1


def _sorted_out(
    merged: MergedTree, problems: Sequence[Problem]
) -> tuple[list[tuple[Unit, Sequence[Piece], Problem]], list[Problem]]:
    """Separate the problems that objects have made, with those objects, from the file's own."""
    owned: list[tuple[Unit, Sequence[Piece], Problem]] = []
    others = []
    for problem in problems:
        unit = merged.unit(problem.steps)
        if unit is None:
            others.append(problem)
        else:
            owned.append((unit, merged.owners[unit], replace(problem, path="")))
    return owned, others


def _blame(
    blamed: dict[str, list[Problem]], wrong: Sequence[tuple[Unit, Sequence[Piece], Problem]]
) -> None:
    for _, owners, problem in wrong:
        first = owners[0].name
        for owner in owners:
            place = problem.file
            if place.startswith(first):
                place = owner.name + place.removeprefix(first)
            blamed.setdefault(owner.name, []).append(replace(problem, file=place))


def _flat(blamed: Mapping[str, Sequence[Problem]]) -> Iterator[tuple[str, Problem]]:
    for name, problems in blamed.items():
        for problem in problems:
            yield name, problem


def _unknown(piece: Piece) -> Problem:
    got = "a configuration that is refused as a whole with it"
    return at_label(codes.NATIVE, piece.place, got, "what the data plane can run")


def _summary(
    pieces: Mapping[str, Sequence[Object]],
    further: Sequence[tuple[str, Problem]],
) -> Discovered:
    by_name: dict[str, list[Problem]] = {}
    for name, problem in further:
        by_name.setdefault(name, []).append(problem)
    problems: dict[str, dict[str, tuple[Problem, ...]]] = {}
    for kind, items in pieces.items():
        problems[kind] = {}
        for _, piece in items:
            own: Any = [*piece.problems, *by_name.get(piece.name, ())]
            if own:
                problems[kind][piece.name] = tuple(dict.fromkeys(own))
    return Discovered({kind: len(items) for kind, items in pieces.items()}, problems)
