"""The labels of one object → a piece of configuration, in the schema's own words and with places.

``pool=api`` makes the object an endpoint of that pool, ``pool.KEYS=…`` are settings of the pool,
``endpoint.KEYS=…`` of the endpoint, ``route.NAME.KEYS=…`` is a route, ``gateway=true`` a gateway
node. What a piece says is judged by the machinery that judges the file, and one that is wrong is
left out; the pieces are put together in ``discovered``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weirgate.shared.config import codes
from weirgate.shared.config.label_piece import Part, Piece, RoutePart, Spelling, endpoint_item
from weirgate.shared.config.label_rules import denied, value_of
from weirgate.shared.config.label_tree import Branch
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.rules import check_nulls, check_rules
from weirgate.shared.config.suggest import did_you_mean
from weirgate.shared.config.tree import Report, Spot, Tree, describe
from weirgate.shared.config.validate import validate

MAX_LABELS = 500
MAX_KEY, MAX_VALUE = 512, 8192
_WORDS = ("enable", "endpoint", "gateway", "pool", "port", "route")
_ENDPOINT_KEYS = ("priority", "weight", "zone")
#: Stands for the object's own address while its piece is judged alone.
_ANY_ADDRESS = "192.0.2.1:1"


def read_labels(name: str, labels: Mapping[str, str], spelling: Spelling) -> Piece:
    """Read the labels of an object, which come without their prefix."""
    return _Reader(name, labels, spelling).read()


class _Reader:
    """Takes one label after the other, and judges the whole at the end."""

    def __init__(self, name: str, labels: Mapping[str, str], spelling: Spelling) -> None:
        self._labels = labels
        place = Spot(Path(name), 0, 0)
        self._piece = Piece(name, spelling, place)
        self._pool = Branch(("pools", "*"))
        self._endpoint = Branch(("pools", "*", "endpoints", 0))
        self._routes: dict[str, Branch] = {}
        self._pool_spot = place

    def read(self) -> Piece:
        piece = self._piece
        if len(self._labels) > MAX_LABELS:
            wanted = f"at most {MAX_LABELS} of them"
            piece.refuse(codes.TOO_LARGE, piece.place, "too many labels", wanted, "use fewer")
            return piece
        if self._labels.get("enable", "").strip().lower() == "false":
            piece.used = False
            return piece
        for key in sorted(self._labels):
            self._label(key, self._labels[key])
        self._complete()
        self._judge()
        return piece

    def _spot(self, key: str) -> Spot:
        written = self._piece.spelling.write(key)
        return Spot(Path(f"{self._piece.name}: {self._piece.spelling.word} {written}"), 0, 0)

    def _label(self, key: str, text: str) -> None:
        spot = self._spot(key)
        if len(key) > MAX_KEY or len(text) > MAX_VALUE:
            wanted = f"a key of at most {MAX_KEY} and a value of at most {MAX_VALUE} characters"
            self._piece.refuse(codes.TOO_LARGE, spot, "a long label", wanted, "shorten it")
            return
        word, *path = key.split(".")
        why = denied(word, path, text)
        if why is not None:
            whole = word != "route"
            self._piece.refuse(codes.LABEL_DENIED, spot, why.got, why.wanted, whole=whole)
            if not whole and path:
                self._branch(path[0]).broken = True
            return
        try:
            value = value_of(text.strip())
        except ValueError:
            wanted = "a number that a computer can count"
            self._piece.refuse(codes.RANGE, spot, "a huge number", wanted)
            return
        if isinstance(value, str):
            value = value.replace("$${", "${")
        self._take(word, path, value, spot)

    def _take(self, word: str, path: list[str], value: Any, spot: Spot) -> None:
        piece = self._piece
        if word == "route" and len(path) > 1:
            self._branch(path[0]).put(path[1:], value, spot, piece)
        elif word == "pool" and path:
            self._pool.put(path, value, spot, piece)
        elif word == "endpoint" and len(path) == 1 and path[0] in _ENDPOINT_KEYS:
            self._endpoint.put(path, value, spot, piece)
        elif path or word not in {"enable", "gateway", "pool", "port"}:
            self._unknown(word, path, spot)
        elif word == "port":
            self._port(value, spot)
        elif word == "pool":
            if self._is(value, str, "the name of a pool", spot):
                piece.pool, self._pool_spot = value, spot
                piece.place = spot if piece.port is None else piece.place
        elif self._is(value, bool, "true or false", spot) and word == "gateway" and value:
            piece.gateway = True
            piece.place = self._pool_spot = spot

    def _is(self, value: Any, kind: type, wanted: str, spot: Spot) -> bool:
        if isinstance(value, kind):
            return True
        self._piece.refuse(codes.TYPE, spot, describe(value), wanted)
        return False

    def _port(self, value: Any, spot: Spot) -> None:
        good = isinstance(value, str) and value != ""
        if isinstance(value, int) and not isinstance(value, bool):
            good = 1 <= value <= 65535
        if not good:
            wanted = "a port from 1 to 65535, or the name of one"
            self._piece.refuse(codes.RANGE, spot, describe(value), wanted)
            return
        self._piece.port = value
        self._piece.place = spot

    def _unknown(self, word: str, path: list[str], spot: Spot) -> None:
        spelling = self._piece.spelling
        written = spelling.write(".".join([word, *path]))
        choices = [*_WORDS, *spelling.others]
        got, wrong = f'the unknown {spelling.word} "{written}"', word
        if word == "endpoint":
            choices, wrong = [*_ENDPOINT_KEYS], ".".join(path)
        elif word == "route":
            choices, wrong = ["NAME.match.path", "NAME.filters", "NAME.pool"], ""
        elif word in _WORDS:
            choices, wrong = [], ""
        behind = f"{word}." if word in {"endpoint", "route"} else ""
        if word in _WORDS and not behind:
            wanted = f"{spelling.write(word)} alone"
        else:
            wanted = "one of " + ", ".join(spelling.write(behind + each) for each in choices)
        hint = did_you_mean(wrong, choices) if wrong else ""
        self._piece.refuse(codes.UNKNOWN_KEY, spot, got, wanted, hint)

    def _branch(self, route: str) -> Branch:
        return self._routes.setdefault(route, Branch(("routes", 0)))

    def _complete(self) -> None:
        """Refuse what says nothing that could be used."""
        piece = self._piece
        spelling, first = piece.spelling, min(self._labels, default="")
        pool = spelling.write("pool")
        if piece.pool is None and not piece.gateway and not self._routes:
            got = f"no {spelling.word} {pool}"
            wanted = f"{pool}, {spelling.write('route.NAME.…')} or {spelling.write('gateway')}"
            if piece.used:
                piece.refuse(codes.MISSING_KEY, self._spot(first), got, wanted)
        elif piece.pool is None and self._pool:
            got, wanted = f"no {spelling.word} {pool}", f"{pool}: the name of the pool"
            piece.refuse(codes.MISSING_KEY, self._pool.first, got, wanted)
        elif piece.pool is not None and piece.gateway:
            got = f"{pool} together with {spelling.write('gateway')}"
            piece.refuse(codes.LABEL_CONFLICT, self._pool_spot, got, "one of the two")

    def _judge(self) -> None:
        """Let the schema judge the piece as if it stood in a file of its own."""
        piece = self._piece
        settings, endpoint = self._pool.part(), self._endpoint.part()
        names = sorted(name for name, branch in self._routes.items() if not branch.broken)
        parts = [self._route(name) for name in names]
        tree = Tree({"routes": [data for data, _ in parts]}, Spot(piece.place.file, 0, 0))
        routes_spot = Spot(piece.place.file, 0, 0)
        routes_spot.children = {index: spot for index, (_, spot) in enumerate(parts)}
        tree.spot.children["routes"] = routes_spot
        pool = piece.pool if piece.pool is not None else "gateways"
        if piece.pool is not None or piece.gateway:
            add_pool(tree, pool, settings, self._pool_spot)
            add_endpoint(tree, pool, _ANY_ADDRESS, endpoint, piece.place)
        report = Report(tree)
        check_nulls(tree, report)
        check_rules(tree, report, complete=False)
        validated = validate(tree, report)
        piece.problems += [replace(problem, path="") for problem in report.problems]
        if any(problem.steps[:1] != ("routes",) for problem in report.problems):
            piece.used = False
        if validated is None or not piece.used:
            return
        piece.settings = settings if settings[0] else None
        piece.endpoint = endpoint if endpoint[0] else None
        bad = {problem.steps[1] for problem in report.problems if len(problem.steps) > 1}
        for route, index in zip(validated.config.routes, validated.route_indices, strict=True):
            if index not in bad:
                piece.routes[names[index]] = RoutePart(*parts[index], route)

    def _route(self, name: str) -> Part:
        data, spot = self._routes[name].part()
        whole = {"name": name, **data}
        if self._piece.pool is not None and not {"pool", "respond", "redirect"} & data.keys():
            whole["pool"] = self._piece.pool
        spot.children["name"] = self._routes[name].first
        return whole, spot


def add_pool(tree: Tree, name: str, settings: Part | None, spot: Spot) -> None:
    """Add a pool without endpoints to a tree whose ``pools`` may be changed."""
    data, written = settings or ({}, spot)
    tree.data.setdefault("pools", {})[name] = {"endpoints": [], **data}
    own = Spot(spot.file, 0, 0, children=dict(written.children))
    own.children["endpoints"] = Spot(spot.file, 0, 0)
    pools = tree.spot.children.setdefault("pools", Spot(spot.file, 0, 0))
    pools.children[name] = own


def add_endpoint(
    tree: Tree, pool: PathStep, address: str, settings: Part | None, spot: Spot
) -> None:
    """Add an endpoint to a pool that ``add_pool`` has made."""
    endpoints = tree.data["pools"][pool]["endpoints"]
    data, at = endpoint_item(address, settings, spot)
    tree.spot.children["pools"].children[pool].children["endpoints"].children[len(endpoints)] = at
    endpoints.append(data)
