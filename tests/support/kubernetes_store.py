"""What an API server knows: objects with versions, the history of their changes, compaction."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Object = dict[str, Any]

SERVICES, SLICES = "services", "endpointslices"
PLURALS = {"Service": SERVICES, "EndpointSlice": SLICES}


class Place(NamedTuple):
    """Where an object is."""

    plural: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Change:
    """One change; ``old`` is the object before it."""

    version: int
    place: Place
    old: Object | None
    new: Object | None


class GoneError(Exception):
    """The history does not reach back so far."""


@dataclass
class Store:
    """Objects as etcd has them: every change has a version, greater than all before."""

    version: int = 1000
    objects: dict[Place, Object] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    #: Versions up to this one are forgotten, but for the newest state.
    compacted: int = 0
    snapshots: dict[int, list[tuple[Place, Object]]] = field(default_factory=dict)

    def put(self, item: Object) -> None:
        """Create or replace an object."""
        metadata = item["metadata"]
        place = Place(PLURALS[item["kind"]], metadata["namespace"], metadata["name"])
        self.version += 1
        new = copy.deepcopy(item)
        new["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, place, self.objects.get(place), new))
        self.objects[place] = new

    def delete(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object; what watches are told carries the version of the deletion."""
        place = Place(plural, namespace, name)
        old = self.objects.pop(place)
        self.version += 1
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, place, last, None))

    def compact(self) -> None:
        """Forget everything but the newest state."""
        self.compacted = self.version
        self.history.clear()
        self.snapshots.clear()

    def snapshot(self, version: int | None) -> tuple[int, list[tuple[Place, Object]]]:
        """Return all objects, in order, as they are now or as a list in pages began.

        Raises:
            GoneError: That list is forgotten.
        """
        if version is None:
            version = self.version
            self.snapshots[version] = sorted(self.objects.items())
        if version not in self.snapshots:
            raise GoneError
        return version, self.snapshots[version]

    def since(self, version: int) -> list[Change]:
        """Return the changes after a version.

        Raises:
            GoneError: They are forgotten.
        """
        if version < self.compacted:
            raise GoneError
        return [change for change in self.history if change.version > version]


def event_of(change: Change, fits: Callable[[Object], bool]) -> Object | None:
    """Return what a watch with a selector is told of a change; ``None`` if nothing."""
    was = change.old is not None and fits(change.old)
    new = change.new
    if new is not None and fits(new):
        return {"type": "MODIFIED" if was else "ADDED", "object": new}
    if not was:
        return None
    last = copy.deepcopy(change.old) or {}
    last["metadata"]["resourceVersion"] = str(change.version)
    return {"type": "DELETED", "object": last}


def selector(text: str) -> Callable[[Object], bool]:
    """Read a label selector: ``a``, ``!a``, ``a=b``, ``a!=b``, with commas between them."""
    terms = [term.strip() for term in text.split(",") if term.strip()]

    def fits(item: Object) -> bool:
        labels = item["metadata"].get("labels", {})
        return all(_fits(term, labels) for term in terms)

    return fits


def _fits(term: str, labels: dict[str, str]) -> bool:
    if "!=" in term:
        key, _, value = term.partition("!=")
        return labels.get(key) != value
    if "=" in term:
        key, _, value = term.replace("==", "=").partition("=")
        return labels.get(key) == value
    return term[1:] not in labels if term.startswith("!") else term in labels
