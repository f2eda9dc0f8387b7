"""Which routes can never be reached, because an earlier one matches all that they match.

The answer is sound, not complete: a route that is named is certainly shadowed. Several earlier
routes that only together cover a later one are not found, nor are regexes compared.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from weirgate.shared.config.match import ClientCertificateMatch, Match, PathPattern, ValueRule

T = TypeVar("T")
_Key = tuple[str | None, tuple[str, str] | None]


def shadowed_routes(matches: Sequence[Match]) -> Iterator[tuple[int, int]]:
    """Yield (later, earlier) for each shadowed route, with the first route that shadows it.

    Earlier routes are looked up by host and path, so that the cost stays near linear.
    """
    matches = [match.spelled_out() for match in matches]
    index: dict[_Key, list[int]] = defaultdict(list)
    for later, match in enumerate(matches):
        candidates = sorted({i for key in _covering_keys(match) for i in index.get(key, ())})
        earlier = next((i for i in candidates if contains(matches[i], match)), None)
        if earlier is not None:
            yield later, earlier
            continue  # what this one shadows, the earlier one shadows, too
        for host in match.host or (None,):
            for path in match.path or (None,):
                index[host, (path.kind, path.value) if path else None].append(later)


def contains(outer: Match, inner: Match) -> bool:
    """Tell whether ``outer`` certainly matches every request that ``inner`` matches."""
    outer, inner = outer.spelled_out(), inner.spelled_out()
    return (
        _covers_all(outer.host, inner.host, _host_covers)
        and _covers_all(outer.path, inner.path, _path_covers)
        and _covers_all(outer.method, inner.method, str.__eq__)
        and _covers_all(outer.source, inner.source, _network_covers)
        and _covers_all(outer.listener, inner.listener, str.__eq__)
        and _rules_follow(outer.header, inner.header)
        and _rules_follow(outer.query, inner.query)
        and _rules_follow(outer.cookie, inner.cookie)
        and _certificate_follows(outer.client_certificate, inner.client_certificate)
    )


def _covering_keys(match: Match) -> Iterator[_Key]:
    """Yield each key under which a route stands that can cover the first host and path."""
    hosts: list[str | None] = [None]
    if match.host:
        hosts += _covering_hosts(match.host[0])
    paths: list[tuple[str, str] | None] = [None]
    if match.path:
        paths += _covering_paths(match.path[0])
    for host in hosts:
        for path in paths:
            yield host, path


def _covering_hosts(host: str) -> Iterator[str]:
    yield host
    labels = host.removeprefix("*.").split(".")
    for start in range(1, len(labels)):
        yield "*." + ".".join(labels[start:])


def _covering_paths(path: PathPattern) -> Iterator[tuple[str, str]]:
    yield path.kind, path.value
    yield "prefix", ""
    if path.kind != "regex":
        segments = path.value.split("/")
        for end in range(2, len(segments) + 1):
            yield "prefix", "/".join(segments[:end])


def _covers_all(outer: Sequence[T], inner: Sequence[T], covers: Callable[[T, T], bool]) -> bool:
    """An empty list is no condition; otherwise each of the inner needs one of the outer."""
    if not outer:
        return True
    return bool(inner) and all(any(covers(o, i) for o in outer) for i in inner)


def _host_covers(outer: str, inner: str) -> bool:
    return outer in _covering_hosts(inner)


def _path_covers(outer: PathPattern, inner: PathPattern) -> bool:
    return (outer.kind, outer.value) in _covering_paths(inner)


def _network_covers(outer: str, inner: str) -> bool:
    one, other = ipaddress.ip_network(outer), ipaddress.ip_network(inner)
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return other.subnet_of(one)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return other.subnet_of(one)
    return False


def _rules_follow(outer: Mapping[str, ValueRule], inner: Mapping[str, ValueRule]) -> bool:
    """All conditions hold together, so each outer one must follow from the inner ones."""
    return all(name in inner and _implies(inner[name], rule) for name, rule in outer.items())


def _implies(one: ValueRule, other: ValueRule) -> bool:
    if one.invert != other.invert:
        return False
    # not A implies not B exactly where B implies A
    return _plain_implies(other, one) if one.invert else _plain_implies(one, other)


def _plain_implies(one: ValueRule, other: ValueRule) -> bool:
    if other.kind == "present":
        return True
    if other.kind == "prefix" and one.kind in {"exact", "prefix"}:
        return one.value.startswith(other.value)
    return (one.kind, one.value) == (other.kind, other.value)


def _certificate_follows(
    outer: ClientCertificateMatch | None, inner: ClientCertificateMatch | None
) -> bool:
    if outer is None or inner is None:
        return outer is None
    return (
        _covers_all(outer.fingerprint, inner.fingerprint, str.__eq__)
        and _rule_follows(outer.subject, inner.subject)
        and _rule_follows(outer.san, inner.san)
    )


def _rule_follows(outer: ValueRule | None, inner: ValueRule | None) -> bool:
    return outer is None or (inner is not None and _implies(inner, outer))
