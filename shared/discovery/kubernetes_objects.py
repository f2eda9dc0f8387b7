"""Services and EndpointSlices as the API server writes them → what is kept of them → ``Found``.

Nothing else of an object is kept, so that tens of thousands of them take little room. What was
written by somebody else may have any shape: wrong types raise ``ValueError``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from weirgate.shared.discovery.found import AddressState, Found, FoundAddress

#: Says of which Service a slice is.
SERVICE_NAME = "kubernetes.io/service-name"
#: The annotation, behind the prefix, for keys that no annotation can have.
MORE_LABELS = "labels"

_MOST_SHOWN = 100
_FAMILIES = ("IPv4", "IPv6")
_BETTER: Mapping[AddressState, int] = {"up": 0, "draining": 1, "down": 2}

Ports = tuple[tuple[str, int], ...]


class Key(NamedTuple):
    """What an object is known by."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Service:
    """A Service that says something to Weirgate."""

    key: Key
    #: When it was made, in a form that sorts: of two that differ the older one's word holds.
    created: str
    labels: Mapping[str, str]
    #: Its first IP family: pods that have both are known by their address of this one.
    family: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One endpoint of a slice, with the ports of its slice."""

    host: str
    family: str
    #: The pod's identity; empty for what is no pod.
    pod: str
    state: AddressState
    why: str
    zone: str
    ports: Ports


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the endpoints of a Service."""

    key: Key
    service: Key
    endpoints: tuple[SliceEndpoint, ...]


def key_of(item: Mapping[str, Any]) -> Key:
    """Return the namespace and the name of an object."""
    metadata = _mapping(item.get("metadata"))
    return Key(_text(metadata.get("namespace")), _text(metadata.get("name")))


def service(item: Mapping[str, Any], prefix: str) -> Service | None:
    """Return what counts of a Service; ``None`` if no annotation is under the prefix."""
    start = f"{prefix}/"
    metadata = _mapping(item.get("metadata"))
    annotations = _mapping(metadata.get("annotations"))
    own = {
        name.removeprefix(start): _text(value)
        for name, value in annotations.items()
        if name.startswith(start)
    }
    if not own:
        return None
    labels, trouble = _with_more(own, start)
    families = _list(_mapping(item.get("spec")).get("ipFamilies"))
    family = families[0] if families and families[0] in _FAMILIES else _FAMILIES[0]
    created = _text(metadata.get("creationTimestamp") or "")
    return Service(key_of(item), created, labels, family, trouble)


def endpoint_slice(item: Mapping[str, Any]) -> Slice | None:
    """Return what counts of a slice; ``None`` if it is nobody's, or holds no IP addresses."""
    metadata = _mapping(item.get("metadata"))
    owner = _text(_mapping(metadata.get("labels")).get(SERVICE_NAME, ""))
    family = _text(item.get("addressType"))
    if not owner or family not in _FAMILIES:
        return None
    key = key_of(item)
    ports = _ports(_list(item.get("ports")))
    endpoints = (_endpoint(_mapping(e), family, ports) for e in _list(item.get("endpoints")))
    return Slice(key, Key(key.namespace, owner), tuple(e for e in endpoints if e is not None))


def found(known: Service, slices: Iterable[Slice]) -> Found:
    """Put a Service and its slices together."""
    addresses = _merged(known.family, [e for each in slices for e in each.endpoints])
    return Found(
        name=f"Service {known.key.namespace}/{known.key.name}",
        labels=known.labels,
        addresses=addresses,
        default_port=_only_port(addresses),
        trouble=known.trouble,
    )


def _with_more(own: dict[str, str], start: str) -> tuple[dict[str, str], str]:
    """Add what the annotation for odd keys holds, or say what is wrong with it."""
    labels = dict(own)
    lines = labels.pop(MORE_LABELS, "").splitlines()
    own = dict(labels)
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        where = f"annotation {start}{MORE_LABELS}, line {number}"
        if not colon or not key or " " in key:
            return own, f'{where}: wanted a line such as "route.api.match.path: /api/*"'
        if key in labels:
            return own, f"{where}: {key[:_MOST_SHOWN]} a second time"
        labels[key] = value.strip()
    return labels, ""


def _ports(items: list[Any]) -> Ports:
    """Return names and numbers; a port without a number is that of nobody in particular."""
    found = set()
    for item in map(_mapping, items):
        number = item.get("port")
        if number is None:
            continue
        if not isinstance(number, int) or not 0 < number < 65536:
            raise ValueError(f"port {number!r}")
        found.add((_text(item.get("name") or ""), number))
    return tuple(sorted(found))


def _endpoint(item: Mapping[str, Any], family: str, ports: Ports) -> SliceEndpoint | None:
    addresses = _list(item.get("addresses"))
    if not addresses:
        return None
    state, why = _state(_mapping(item.get("conditions")))
    target = _mapping(item.get("targetRef"))
    pod = _text(target.get("uid") or "") if target.get("kind") == "Pod" else ""
    # beyond the first address nothing is defined, and kube-proxy does not look either
    host, zone = _text(addresses[0]), _text(item.get("zone") or "")
    return SliceEndpoint(host, family, pod, state, why, zone, ports)


def _state(conditions: Mapping[str, Any]) -> tuple[AddressState, str]:
    """Judge as the API defines it: no word on ``ready`` or ``serving`` is yes.

    ``ready`` is no for whatever terminates; ``serving`` then still is the pod's own word.
    """
    ready, serving = conditions.get("ready"), conditions.get("serving")
    if ready is not False:
        return "up", ""
    if conditions.get("terminating") is not True:
        return "down", "not ready"
    return ("draining" if serving is not False else "down"), "terminating"


def _merged(family: str, endpoints: list[SliceEndpoint]) -> tuple[FoundAddress, ...]:
    """Return each pod once, and each address with its ports once, the best word on it counting.

    An endpoint that moves between slices is in both for a moment; two pods that share their
    node's address follow each other in a rolling update.
    """
    preferred = {e.pod for e in endpoints if e.pod and e.family == family}
    best: dict[tuple[str, Ports], SliceEndpoint] = {}
    for endpoint in endpoints:
        if endpoint.pod in preferred and endpoint.family != family:
            continue
        known = best.get((endpoint.host, endpoint.ports))
        if known is None or _rank(endpoint) < _rank(known):
            best[endpoint.host, endpoint.ports] = endpoint
    addresses = (FoundAddress(e.host, e.state, e.why, e.zone, e.ports) for e in best.values())
    return tuple(sorted(addresses))


def _rank(endpoint: SliceEndpoint) -> tuple[int, str, str]:
    """Order by state; the rest only makes the choice the same each time."""
    return _BETTER[endpoint.state], endpoint.zone, endpoint.why


def _only_port(addresses: tuple[FoundAddress, ...]) -> int | None:
    numbers = {number for address in addresses for _, number in address.ports}
    return numbers.pop() if len(numbers) == 1 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where a mapping belongs")  # noqa: TRY004
    return value


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} where a list belongs")  # noqa: TRY004
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where a text belongs")  # noqa: TRY004
    return value
