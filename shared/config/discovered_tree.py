"""The file's tree with the pools, endpoints, routes and gateway nodes of objects in it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from weirgate.shared.addresses import join_address, split_address
from weirgate.shared.config import codes
from weirgate.shared.config.label_piece import Part, Piece, RoutePart, at_label, endpoint_item
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.nodes import MAX_NODES
from weirgate.shared.config.problem import PathStep, Problem
from weirgate.shared.config.route_order import names_of_routes, specificity
from weirgate.shared.config.tree import Spot, Tree, describe
from weirgate.shared.config.tree_parts import (
    copy_spot,
    first_difference,
    first_label,
    inner_mapping,
)
from weirgate.shared.discovery.found import Found, FoundAddress

MAX_ENDPOINTS = 4096

#: What can be left out by itself: ``("route", name)``, ``("pool", name)``,
#: ``("endpoint", pool, address)`` or ``("node", address)``.
Unit = tuple[str, ...]


@dataclass(slots=True)
class _Member:
    """One address of one object."""

    address: str
    found: FoundAddress
    piece: Piece


@dataclass(slots=True)
class _Pool:
    """A pool that objects make or join."""

    in_file: bool
    first: Piece
    settings: Part | None = None
    stated_by: Piece | None = None
    members: dict[str, _Member] = field(default_factory=dict)


class MergedTree:
    """Merges in the order of the objects: what an earlier one says holds."""

    def __init__(
        self,
        loaded: Loaded,
        objects: Sequence[tuple[Found, Piece]],
        left_out: Collection[Unit] = (),
    ) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._left_out = left_out
        #: Contradictions, with the names of those who made them.
        self.problems: list[tuple[str, Problem]] = []
        #: Who has said what.
        self.owners: dict[Unit, list[Piece]] = {}
        self._taken = set(names_of_routes(loaded.config))
        self._pools: dict[str, _Pool] = {}
        self._routes: dict[str, RoutePart] = {}
        self._nodes: dict[str, _Member] = {}
        for found, piece in objects:
            if piece.used:
                self._add(found, piece)
        self.tree = self._grow()

    def unit(self, steps: tuple[PathStep, ...]) -> Unit | None:
        """Return whatever of objects stands at a path; ``None`` for what is the file's."""
        for length in range(len(steps), 0, -1):
            unit = self._places.get(steps[:length])
            if unit is not None:
                return unit
        return None

    # What each object says.

    def _add(self, found: Found, piece: Piece) -> None:
        if found.trouble:
            self._blame(piece, codes.DISCOVERED, piece.place, found.trouble, "one that can be used")
            return
        if piece.gateway:
            self._join_nodes(found, piece)
        if piece.pool is not None and not self._join(found, piece, piece.pool):
            return
        for name, part in piece.routes.items():
            self._route(name, part, piece)

    def _join(self, found: Found, piece: Piece, name: str) -> bool:
        """Make the object an endpoint of its pool; say whether it agrees with it."""
        if ("pool", name) in self._left_out:
            self.owners.setdefault(("pool", name), []).append(piece)
            return False
        pool = self._pools.setdefault(name, _Pool(name in self._config.pools, piece))
        if pool.in_file and piece.settings:
            spot = first_label(piece.settings[1])
            got = f"a setting of {describe(name)}, a pool of the file"
            self._blame(piece, codes.LABEL_CONFLICT, spot, got, "none: the file alone sets it up")
        elif pool.settings is None:
            pool.settings, pool.stated_by = piece.settings, piece
        elif piece.settings and piece.settings[0] != pool.settings[0]:
            spot = first_difference(piece.settings, pool.settings)
            other = pool.stated_by.name if pool.stated_by else ""
            got = f"another setting of the pool {describe(name)} than {other} has"
            self._blame(piece, codes.LABEL_CONFLICT, spot, got, "the same settings in both")
            return False
        if not pool.in_file:
            self.owners.setdefault(("pool", name), []).append(piece)
        for member in self._members(found, piece, found.default_port):
            unit = ("endpoint", name, member.address)
            known = pool.members.get(member.address)
            if unit in self._left_out or (known and not _better(member, known)):
                continue
            if known is None and len(pool.members) >= MAX_ENDPOINTS:
                got = f"one endpoint too many in the pool {describe(name)}"
                wanted = f"at most {MAX_ENDPOINTS} of labels"
                self._blame(piece, codes.RANGE, piece.place, got, wanted)
                break
            pool.members[member.address] = member
            self.owners[unit] = [piece]
        return True

    def _members(self, found: Found, piece: Piece, default: int | None) -> Iterator[_Member]:
        unnamed: set[str] = set()
        for address in found.addresses:
            port = piece.port if piece.port is not None else default
            if isinstance(port, str):
                ports = dict(address.ports)
                unnamed |= ports.keys()
                port = ports.get(port)
            if port is not None:
                yield _Member(join_address(address.host, port), address, piece)
            elif piece.port is not None:
                known = ", ".join(sorted(unnamed)[:10])
                wanted = f"one of {known}" if known else "a number: no port has a name here"
                got = f"no port named {describe(piece.port)}"
                self._blame(piece, codes.DISCOVERED, piece.place, got, wanted)
                return
            else:
                wanted = f"{piece.spelling.word} {piece.spelling.write('port')}"
                got = "no port: none is exposed, or several are"
                self._blame(piece, codes.DISCOVERED, piece.place, got, wanted)
                return

    def _join_nodes(self, found: Found, piece: Piece) -> None:
        nodes = self._config.gateway.nodes
        if nodes is None:
            got, wanted = "a gateway node", "gateway.nodes in the file"
            self._blame(piece, codes.NODES, piece.place, got, wanted)
            return
        split = split_address(nodes.bind[0])
        known = {split_address(endpoint.address) for endpoint in nodes.endpoints}
        for member in self._members(found, piece, split[1]):
            unit = ("node", member.address)
            if unit in self._left_out or split_address(member.address) in known:
                continue
            if len(self._nodes) + len(nodes.endpoints) >= MAX_NODES:
                wanted = f"at most {MAX_NODES}"
                self._blame(piece, codes.RANGE, piece.place, "a gateway node too many", wanted)
                break
            if self._nodes.setdefault(member.address, member) is member:
                self.owners[unit] = [piece]

    def _route(self, name: str, part: RoutePart, piece: Piece) -> None:
        unit = ("route", name)
        known = self._routes.get(name)
        pool = part.data.get("pool")
        gone = ("pool", pool) in self._left_out and pool not in self._config.pools
        if name in self._taken:
            got = f"{describe(name)}, a route of the file"
            self._blame(piece, codes.LABEL_CONFLICT, first_label(part.spot), got, "another name")
        elif unit in self._left_out or gone:
            self.owners.setdefault(unit, []).append(piece)
        elif known is None:
            self._routes[name] = part
            self.owners[unit] = [piece]
        elif known.data == part.data:
            self.owners[unit].append(piece)
        else:
            other = self.owners[unit][0].name
            got = f"another route {describe(name)} than {other} has"
            spot = first_difference((part.data, part.spot), (known.data, known.spot))
            self._blame(piece, codes.LABEL_CONFLICT, spot, got, "the same in both")

    def _blame(self, piece: Piece, code: codes.Code, spot: Spot, got: str, wanted: str) -> None:
        self.problems.append((piece.name, at_label(code, spot, got, wanted)))

    # The tree.

    def _grow(self) -> Tree:
        old = self._loaded.tree
        tree = Tree(dict(old.data), copy_spot(old.spot))
        self._places: dict[tuple[PathStep, ...], Unit] = {}
        if self._pools:
            self._grow_pools(tree)
        if self._routes:
            self._grow_routes(tree)
        if self._nodes:
            nodes = inner_mapping(tree, ("gateway", "nodes"))
            members = list(self._nodes.values())
            self._grow_endpoints(nodes, ("gateway", "nodes"), members, ("node",))
        return tree

    def _grow_pools(self, tree: Tree) -> None:
        pools = inner_mapping(tree, ("pools",))
        for name, pool in self._pools.items():
            if not pool.in_file:
                data, spot = pool.settings or ({}, Spot(pool.first.place.file, 0, 0))
                pools.data[name] = {"endpoints": [], **data}
                pools.spot.children[name] = copy_spot(spot)
                self._places["pools", name] = ("pool", name)
            inner = inner_mapping(pools, (name,))
            members = list(pool.members.values())
            self._grow_endpoints(inner, ("pools", name), members, ("endpoint", name))

    def _grow_endpoints(
        self,
        holder: Tree,
        path: tuple[PathStep, ...],
        members: Sequence[_Member],
        unit: Unit,
    ) -> None:
        endpoints = list(holder.data.get("endpoints", ()))
        written = {e if isinstance(e, str) else e.get("address") for e in endpoints}
        spot = copy_spot(holder.spot.children.get("endpoints") or holder.spot)
        if "endpoints" not in holder.spot.children:
            spot.children = {}
        drained = any(_takes_work(e) for e in endpoints) or any(
            m.found.state == "up" and _takes_work(m.piece.endpoint and m.piece.endpoint[0])
            for m in members
        )
        for member in members:
            if member.found.state == "down" or member.address in written:
                continue
            data, at = endpoint_item(member.address, member.piece.endpoint, member.piece.place)
            if member.found.zone:
                data = {"zone": member.found.zone, **data}
            if member.found.state == "draining" and drained:
                data = {**data, "weight": 0}
            self._places[*path, "endpoints", len(endpoints)] = (*unit, member.address)
            spot.children[len(endpoints)] = at
            endpoints.append(data)
        holder.data["endpoints"], holder.spot.children["endpoints"] = endpoints, spot

    def _grow_routes(self, tree: Tree) -> None:
        own = sorted(self._routes.items(), key=lambda item: specificity(item[1].route))
        written = list(tree.data.get("routes", ()))
        spot = copy_spot(tree.spot.children.get("routes") or tree.spot)
        if "routes" not in tree.spot.children:
            spot.children = {}
        names = names_of_routes(self._config)
        # those without a name are called by their place, which may be another one now
        written = [{"name": name, **data} for name, data in zip(names, written, strict=True)]
        old = [spot.children[index] for index in range(len(written))]
        new = [part.spot for _, part in own]
        section = self._config.discovery
        first = section is not None and section.routes == "first"
        data = [part.data for _, part in own]
        tree.data["routes"] = [*data, *written] if first else [*written, *data]
        spot.children = dict(enumerate([*new, *old] if first else [*old, *new]))
        tree.spot.children["routes"] = spot
        for index, (name, _) in enumerate(own, 0 if first else len(written)):
            self._places["routes", index] = ("route", name)


def _better(one: _Member, other: _Member) -> bool:
    """Tell whether an address that two objects have is known to be up by the later one alone."""
    return one.found.state != "down" and other.found.state == "down"


def _takes_work(endpoint: Any) -> bool:
    return not isinstance(endpoint, dict) or endpoint.get("weight", 1) != 0
