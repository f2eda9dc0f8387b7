"""Rules about which keys go together, checked on the data itself: they need no valid model."""

from collections.abc import Iterator, Mapping
from typing import Any

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.suggest import did_you_mean
from weirgate.shared.config.tree import Report, Tree, describe

_ACTIONS = ("pool", "respond", "redirect")
#: The protocols that a key of a listener belongs to; the others belong to all.
_PROTOCOLS = {
    "pool": ("tcp", "udp"),
    "sni": ("tls",),
    "terminate": ("tls",),
    "default": ("tls",),
    "hello_timeout": ("tcp", "tls"),
    "idle_timeout": ("tcp", "tls", "udp"),
    "connect_timeout": ("tcp", "tls"),
    "max_connections": ("http", "tcp", "tls"),
    "backlog": ("http", "tcp", "tls"),
    "tcp": ("http", "tcp", "tls"),
    "datagrams_per_source": ("udp",),
    "bytes_in_per_source": ("tcp", "tls", "udp"),
    "bytes_out_per_source": ("tcp", "tls", "udp"),
    "max_sessions": ("udp",),
    "responses": ("udp",),
    "tls": ("http", "tls"),
    "proxy_protocol": ("http", "tcp", "tls"),
    "trusted_proxies": ("http", "tls"),
}
_IN_GATEWAYS = "what gateways carry is not limited by bytes, only what the edge relays"


def check_nulls(tree: Tree, report: Report) -> None:
    """Refuse keys with nothing behind them.

    ``tls:`` could mean "with the defaults" or "none"; guessing wrong would send plain text.
    """
    stack: list[tuple[tuple[PathStep, ...], Any]] = [((), tree.data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, key), child) for key, child in value.items()]
        elif isinstance(value, list):
            stack += [((*path, index), child) for index, child in enumerate(value)]
        elif value is None:
            hint = "leave the key out, or write {} for the defaults of a mapping"
            report.add(codes.TYPE, path, wanted="a value", hint=hint)
            tree.nearest(path)[1].broken = True


def check_rules(tree: Tree, report: Report, *, complete: bool) -> None:
    """Check listeners and routes; ``complete`` = no file is missing, so names can be looked up."""
    pools = tree.data.get("pools", {})
    names = list(pools) if complete and isinstance(pools, dict) else None
    for path, listener in _listeners(tree):
        _check_listener(path, listener, report)
        _check_pool_name(path, listener, "pool", names, report)
        _check_pool_name(path, listener, "default", names, report)
        targets = listener.get("sni")
        if isinstance(targets, dict):
            for name in targets:
                _check_pool_name((*path, "sni"), targets, name, names, report)
    seen: dict[str, tuple[PathStep, ...]] = {}
    reading = {path[-1]: _reads_requests(listener) for path, listener in _listeners(tree)}
    for index, route in _routes(tree):
        _check_action(("routes", index), route, report)
        _check_pool_name(("routes", index), route, "pool", names, report)
        if complete:
            _check_matched_listeners(("routes", index), route, reading, report)
        _check_route_name(index, route, seen, report)


def _listeners(tree: Tree) -> Iterator[tuple[tuple[PathStep, ...], dict[str, Any]]]:
    listeners = tree.data.get("listeners")
    for name, listener in listeners.items() if isinstance(listeners, dict) else ():
        if isinstance(listener, dict):
            yield ("listeners", name), listener


def _routes(tree: Tree) -> Iterator[tuple[int, dict[str, Any]]]:
    routes = tree.data.get("routes")
    for index, route in enumerate(routes) if isinstance(routes, list) else ():
        if isinstance(route, dict):
            yield index, route


def _reads_requests(listener: dict[str, Any]) -> bool:
    protocol = listener.get("protocol", "http")
    return protocol not in ("tcp", "tls", "udp") or (
        protocol == "tls" and bool(listener.get("terminate"))
    )


def _check_listener(path: tuple[PathStep, ...], listener: dict[str, Any], report: Report) -> None:
    protocol = listener.get("protocol", "http")
    if protocol not in ("http", "tcp", "tls", "udp"):
        return
    for key, protocols in _PROTOCOLS.items():
        if key in listener and protocol not in protocols:
            _refuse_key(key, path, protocol, " or ".join(protocols), report)
    if protocol in _PROTOCOLS["pool"] and "pool" not in listener:
        wanted = f'the key "pool": a {protocol} listener is relayed to one'
        report.add(codes.MISSING_KEY, path, got='no key "pool"', wanted=wanted, at_key=True)
    if protocol == "tcp" and "hello_timeout" in listener and "proxy_protocol" not in listener:
        got = "hello_timeout in a tcp listener without proxy_protocol"
        report.add(
            codes.PROTOCOL_KEY, (*path, "hello_timeout"), got=got, at_key=True,
            wanted="it only where something is to be read first",
        )  # fmt: skip
    if protocol == "tls":
        _check_server_names(path, listener, report)
    if protocol == "udp":
        _check_datagram_binds(path, listener, report)


def _refuse_key(
    key: str, path: tuple[PathStep, ...], protocol: str, protocols: str, report: Report
) -> None:
    got = f"the key {key} in a listener with protocol: {protocol}"
    hints = {
        ("pool", "http"): "an http listener is routed by routes",
        ("pool", "tls"): "write default: for every name, or sni: {name: pool}",
        ("bytes_in_per_source", "http"): _IN_GATEWAYS,
        ("bytes_out_per_source", "http"): _IN_GATEWAYS,
    }
    report.add(
        codes.PROTOCOL_KEY, (*path, key), got=got, wanted=f"{key} only with protocol: {protocols}",
        hint=hints.get((key, protocol), ""), at_key=True,
    )  # fmt: skip


def _check_server_names(
    path: tuple[PathStep, ...], listener: dict[str, Any], report: Report
) -> None:
    if not any(listener.get(key) for key in ("sni", "terminate", "default")):
        wanted = "at least one of sni, terminate and default: where connections go"
        report.add(codes.SERVER_NAMES, path, got="none of them", wanted=wanted, at_key=True)
    terminates, keys = bool(listener.get("terminate")), ("tls", "trusted_proxies")
    for key in keys if not terminates else ():
        if key in listener:
            got = f"{key}, but no name in terminate"
            report.add(
                codes.TERMINATE, (*path, key), got=got, at_key=True,
                wanted="terminate: the names whose TLS ends here",
            )  # fmt: skip
    for key in ("bytes_in_per_source", "bytes_out_per_source") if terminates else ():
        if key in listener:
            report.add(
                codes.PROTOCOL_KEY, (*path, key), got=f"{key} together with terminate",
                wanted="one of the two", hint=_IN_GATEWAYS, at_key=True,
            )  # fmt: skip
    if terminates and "tls" not in listener:
        report.add(
            codes.TERMINATE, (*path, "terminate"), got="terminate, but no key tls", at_key=True,
            wanted="tls: {certificates: […]} for those names",
        )  # fmt: skip


def _check_datagram_binds(
    path: tuple[PathStep, ...], listener: dict[str, Any], report: Report
) -> None:
    binds = listener.get("bind")
    for index, bind in enumerate(binds if isinstance(binds, list) else [binds]):
        if isinstance(bind, str) and bind.startswith("unix:"):
            where = (*path, "bind", index) if isinstance(binds, list) else (*path, "bind")
            report.add(codes.BIND, where, wanted='"IP:port": a udp listener has no Unix socket')


def _check_action(path: tuple[PathStep, ...], route: dict[str, Any], report: Report) -> None:
    given = [key for key in _ACTIONS if key in route]
    if len(given) == 1:
        return
    got = " and ".join(given) if given else "none of them"
    at = (*path, given[1]) if given else path
    report.add(
        codes.ACTION, at, got=got, wanted="exactly one of pool, respond and redirect", at_key=True
    )


def _check_pool_name(
    path: tuple[PathStep, ...],
    user: dict[str, Any],
    key: str,
    names: list[str] | None,
    report: Report,
) -> None:
    name = user.get(key)
    if names is None or not isinstance(name, str) or name in names:
        return
    wanted = _one_of("pools", names) or "a pool that is defined under pools"
    report.add(codes.UNKNOWN_POOL, (*path, key), wanted=wanted, hint=did_you_mean(name, names))


def _one_of(what: str, names: list[str]) -> str:
    """Return the words for a choice; empty where there is none."""
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"one of the {what} {shown}" if names else ""


def _check_matched_listeners(
    path: tuple[PathStep, ...],
    route: dict[str, Any],
    reading: Mapping[PathStep, bool],
    report: Report,
) -> None:
    match = route.get("match")
    given = match.get("listener") if isinstance(match, dict) else None
    names = [str(known) for known, reads in reading.items() if reads]
    wanted = _one_of("listeners", names) or "a listener that takes requests"
    for place, name in enumerate(given if isinstance(given, list) else [given]):
        if not isinstance(name, str) or reading.get(name):
            continue
        got, hint = describe(name), did_you_mean(name, names)
        if name in reading:
            got += ", which relays without reading requests"
            hint = "name an http listener, or a tls one with terminate"
        where = (*path, "match", "listener", place)
        report.add(codes.UNKNOWN_LISTENER, where, got=got, wanted=wanted, hint=hint)


def _check_route_name(
    index: int, route: dict[str, Any], seen: dict[str, tuple[PathStep, ...]], report: Report
) -> None:
    path = ("routes", index, "name")
    name = route.get("name", f"route-{index + 1}")
    if not isinstance(name, str):
        return
    if name in seen:
        got = f"{describe(name)}, the name of the route at {report.where(seen[name])}"
        report.add(codes.DUPLICATE_ROUTE, path, got=got, wanted="a name of its own")
    else:
        seen[name] = path
