"""Keys with dots → nested mappings and lists, each node with its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.translate import is_list
from weirgate.shared.config.tree import Spot

if TYPE_CHECKING:
    from weirgate.shared.config.label_piece import Part, Piece

MAX_DEPTH = 16


class Branch:
    """A part of the configuration that grows label by label."""

    def __init__(self, path: Sequence[PathStep]) -> None:
        """Grow below ``path`` of the schema, where ``*`` and 0 stand for any name and index."""
        self._path = tuple(path)
        self._root: dict[str, Any] = {}
        #: The first of its labels.
        self.first = Spot(Path(), 0, 0)
        #: Something of it was refused.
        self.broken = False

    def __bool__(self) -> bool:
        return bool(self._root)

    def put(self, path: Sequence[str], value: Any, spot: Spot, piece: "Piece") -> None:
        """Put a value at a place; report what cannot stand there."""
        if not self._root:
            self.first = spot
        if len(path) > MAX_DEPTH or not all(path):
            self.broken = True
            wanted = f"one dot between two keys, and at most {MAX_DEPTH} of them"
            got = "an empty key" if "" in path else "too many keys"
            piece.refuse(codes.UNKNOWN_KEY, spot, got, wanted, whole=self._whole)
            return
        node = self._root
        *parents, last = path
        for step in parents:
            inner = node.setdefault(step, {})
            if not isinstance(inner, dict):
                self._refuse(step, spot, piece)
                return
            node = inner
        if last in node:
            self._refuse(last, spot, piece)
        else:
            node[last] = (value, spot)

    def part(self) -> "Part":
        """Return the data and the places; nothing where something of it was refused."""
        if self.broken:
            return {}, Spot(self.first.file, 0, 0)
        data, spot = self._grown(self._root, self._path)
        return data, spot

    @property
    def _whole(self) -> bool:
        return self._path[0] != "routes"

    def _refuse(self, key: str, spot: Spot, piece: "Piece") -> None:
        self.broken = True
        got, wanted = f'"{key}" both with a value and with keys below it', "one of the two"
        piece.refuse(codes.LABEL_CONFLICT, spot, got, wanted, whole=self._whole)

    def _grown(self, node: dict[str, Any], path: tuple[PathStep, ...]) -> tuple[Any, Spot]:
        keys = sorted(node, key=_in_order)
        as_list = is_list(path) and all(key.isdigit() and len(key) < 5 for key in keys)
        values: dict[PathStep, Any] = {}
        children: dict[PathStep, Spot] = {}
        for place, key in enumerate(keys):
            step: PathStep = place if as_list else key
            child = node[key]
            if isinstance(child, dict):
                values[step], children[step] = self._grown(child, (*path, step))
            else:
                values[step], children[step] = child
        first = next(iter(children.values()), None)
        spot = Spot(first.file if first else Path(), 0, 0, children=children)
        return (list(values.values()) if as_list and keys else values), spot


def _in_order(key: str) -> tuple[int, str]:
    return (len(key) if key.isdigit() else 0, key)
