"""Small steps in trees: copies that may be changed, and the labels that differ."""

from collections.abc import Sequence
from dataclasses import replace

from weirgate.shared.config.label_piece import Part
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.tree import Spot, Tree


def copy_spot(spot: Spot) -> Spot:
    """Return a copy whose children may be changed."""
    return replace(spot, children=dict(spot.children))


def inner_mapping(tree: Tree, path: Sequence[PathStep]) -> Tree:
    """Return the mapping at a path, made if it is missing, as copies that may be changed."""
    for step in path:
        data = tree.data[str(step)] = dict(tree.data.get(str(step), {}))
        spot = tree.spot.children[step] = copy_spot(
            tree.spot.children.get(step) or Spot(tree.spot.file, 1, 1)
        )
        tree = Tree(data, spot)
    return tree


def first_label(spot: Spot) -> Spot:
    """Return the first label below a node."""
    while spot.children:
        spot = next(iter(spot.children.values()))
    return spot


def first_difference(one: Part, other: Part) -> Spot:
    """Return the first label that differs, or the first of all where one only is missing."""
    for key, value in one[0].items():
        spot = one[1].children.get(key)
        if spot is None or (key in other[0] and other[0][key] == value):
            continue
        inner = other[0].get(key)
        if isinstance(value, dict) and isinstance(inner, dict) and value != inner:
            return first_difference((value, spot), (inner, Spot(spot.file, 0, 0)))
        return first_label(spot)
    return first_label(one[1])
