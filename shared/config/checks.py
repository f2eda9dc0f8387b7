"""Rules between the pieces of a configuration, and warnings about what is legal but odd."""

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import is_loopback, overlaps
from weirgate.shared.config.base import repeated
from weirgate.shared.config.listeners import relayed_to
from weirgate.shared.config.node_checks import check_nodes, warn_nodes
from weirgate.shared.config.nodes import needs_gateways
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.protocol_checks import check_protocols, warn_protocols
from weirgate.shared.config.routes import Route
from weirgate.shared.config.schema import Config, route_name
from weirgate.shared.config.shadow import shadowed_routes
from weirgate.shared.config.tree import Report, describe
from weirgate.shared.config.validate import Validated

_ONCE = frozenset({"rewrite_prefix", "sticky"})


def check(validated: Validated, report: Report) -> None:
    """Report the errors between pieces that are good in themselves."""
    _check_binds(validated.config, report)
    _check_sockets(validated.config, report)
    _check_relayed_pools(validated.config, report)
    _check_queues(validated.config, report)
    _check_server_names(validated.config, report)
    _check_introduced_pools(validated, report)
    _check_endpoints(validated.config, report)
    check_nodes(validated.config, report)
    check_protocols(validated, report)
    for route, index in zip(validated.config.routes, validated.route_indices, strict=True):
        _check_filters(route, ("routes", index), report)


def warn(config: Config, report: Report) -> None:
    """Report what is probably not meant; only for a configuration without errors."""
    _warn_shadowed(config, report)
    _warn_pools(config, report)
    warn_nodes(config, report)
    warn_protocols(config, report)
    routed = needs_gateways(config)
    http = next(iter(routed), None)
    if http is not None and not config.routes and config.discovery is None:
        kind = "an http listener" if routed[http].protocol == "http" else "terminate"
        got = f"{kind}, but no routes: every request is answered with 404"
        _warn(report, codes.NO_ROUTES, ("listeners", http), got, "at least one route")
    _warn_tls(config, report)
    bind = config.admin.bind
    if bind != "off" and not is_loopback(bind) and config.admin.token is None:
        wanted = "an address of this host only, or admin.token: anybody could reload"
        report.add(codes.ADMIN_EXPOSED, ("admin", "bind"), wanted=wanted, severity="warning")


def _check_binds(config: Config, report: Report) -> None:
    taken: list[tuple[str, tuple[PathStep, ...]]] = []
    datagram: list[tuple[str, tuple[PathStep, ...]]] = []
    for name, listener in config.listeners.items():
        for index, bind in enumerate(listener.bind):
            known = datagram if listener.protocol == "udp" else taken
            _check_bind(bind, ("listeners", name, "bind", index), known, report)
    if config.admin.bind != "off":
        _check_bind(config.admin.bind, ("admin", "bind"), taken, report)


def _check_bind(
    bind: str,
    path: tuple[PathStep, ...],
    taken: list[tuple[str, tuple[PathStep, ...]]],
    report: Report,
) -> None:
    other = next((item for item in taken if overlaps(bind, item[0])), None)
    if other is None:
        taken.append((bind, path))
        return
    if path[0] == "admin":  # its default is written nowhere: the listener is the one to change
        bind, path, place = *other, "admin.bind"
    else:
        place = f"listener {other[1][1]} at {report.where(other[1])}"
    got = f"{describe(bind)}, taken by {place}"
    report.add(codes.BIND_TAKEN, path, got=got, wanted="an address that nothing else uses")


def _check_sockets(config: Config, report: Report) -> None:
    for name, listener in config.listeners.items():
        local = all(bind.startswith("unix:") for bind in listener.bind)
        if local and "tcp" in listener.model_fields_set:
            got = "the key tcp in a listener that binds Unix sockets only"
            path = ("listeners", name, "tcp")
            wanted = "an IP address to bind"
            report.add(codes.PROTOCOL_KEY, path, got=got, wanted=wanted, at_key=True)


def _check_relayed_pools(config: Config, report: Report) -> None:
    for name, listener in config.listeners.items():
        for path, pool_name in relayed_to(listener):
            pool = config.pools.get(pool_name)
            if pool is not None and pool.tls is not None:
                got = f"{describe(pool_name)}, a pool with tls"
                where = ("listeners", name, *path)
                report.add(codes.POOL_TLS, where, got=got, wanted="a pool without tls")


def _check_queues(config: Config, report: Report) -> None:
    waiting, datagrams = {route.pool for route in config.routes}, set[str]()
    for listener in config.listeners.values():
        users = datagrams if listener.protocol == "udp" else waiting
        users.update(pool for _, pool in relayed_to(listener))
    for name in sorted(datagrams - waiting):
        pool = config.pools.get(name)
        if pool is not None and "queue" in pool.model_fields_set:
            got = "queue in a pool that only udp listeners use"
            path = ("pools", name, "queue")
            report.add(codes.QUEUE, path, got=got, wanted="no queue", at_key=True)


def _check_server_names(config: Config, report: Report) -> None:
    for name, listener in config.listeners.items():
        path = ("listeners", name, "terminate")
        if "*" in listener.terminate and listener.default is not None:
            got = 'terminate: "*" together with default'
            report.add(
                codes.SERVER_NAMES, path, got=got, wanted="one of the two for every other name"
            )
        for server_name in listener.terminate:
            if server_name in listener.sni:
                got = f"{describe(server_name)} in terminate and in sni"
                report.add(codes.SERVER_NAMES, path, got=got, wanted="each name in one of them")


def _check_introduced_pools(validated: Validated, report: Report) -> None:
    pools = validated.config.pools
    for route, index in zip(validated.config.routes, validated.route_indices, strict=True):
        pool = pools.get(route.pool or "")
        if pool is not None and pool.proxy_protocol != "off":
            got = f"{describe(route.pool)}, a pool with proxy_protocol: {pool.proxy_protocol}"
            wanted = "a pool without proxy_protocol"
            report.add(codes.POOL_PROXY, ("routes", index, "pool"), got=got, wanted=wanted)
    for name, listener in validated.config.listeners.items():
        pool = pools.get(listener.pool or "")
        if listener.protocol == "udp" and pool is not None and pool.proxy_protocol == "v1":
            got = f"{describe(listener.pool)}, a pool with proxy_protocol: {pool.proxy_protocol}"
            where = ("listeners", name, "pool")
            wanted = "a pool with proxy_protocol: v2: version 1 has no form for datagrams"
            report.add(codes.POOL_PROXY, where, got=got, wanted=wanted, hint="write v2, or off")
    for name, pool in pools.items():
        if pool.proxy_protocol != "off" and pool.tls is not None:
            path = ("pools", name, "proxy_protocol")
            got = "proxy_protocol together with tls"
            report.add(codes.POOL_PROXY, path, got=got, wanted="one of the two", at_key=True)


def _check_endpoints(config: Config, report: Report) -> None:
    for name, pool in config.pools.items():
        seen: set[str] = set()
        for index, endpoint in enumerate(pool.endpoints):
            path = ("pools", name, "endpoints", index, "address")
            if endpoint.address in seen:
                got = f"{describe(endpoint.address)} a second time"
                report.add(codes.DUPLICATE_ENDPOINT, path, got=got, wanted="each address once")
            seen.add(endpoint.address)


def _check_filters(route: Route, path: tuple[PathStep, ...], report: Report) -> None:
    for index, item in enumerate(route.filters):
        where = (*path, "filters", index)
        if item.kind == "sticky":
            _check_sticky(route, where, report)
        elif item.kind == "rewrite_prefix":
            _check_rewrite(route, where, report)
    twice = repeated(item.kind for item in route.filters if item.kind in _ONCE)
    if twice is not None:
        last = max(i for i, item in enumerate(route.filters) if item.kind == twice)
        got = f"{twice} a second time"
        report.add(
            codes.FILTER, (*path, "filters", last, twice), got=got, wanted="it once", at_key=True
        )


def _check_sticky(route: Route, path: tuple[PathStep, ...], report: Report) -> None:
    if route.respond is not None or route.redirect is not None:
        got = "sticky in a route without a pool"
        report.add(codes.FILTER, (*path, "sticky"), got=got, wanted="a pool", at_key=True)


def _check_rewrite(route: Route, path: tuple[PathStep, ...], report: Report) -> None:
    bad = [p for p in route.match.path if p.kind != "prefix"]
    if route.match.path and not bad:
        return
    got = "rewrite_prefix with a path that is no prefix" if bad else "rewrite_prefix without a path"
    hint = "end the path with /*" if bad else 'add match: {path: "/*"}'
    if route.match.grpc:
        got, hint = "rewrite_prefix with grpc", "a call's path is its method"
    report.add(
        codes.REWRITE, (*path, "rewrite_prefix"), got=got, hint=hint, at_key=True,
        wanted="only prefix paths such as /x/* in the route's match",
    )  # fmt: skip


def _warn_shadowed(config: Config, report: Report) -> None:
    for later, earlier in shadowed_routes([route.match for route in config.routes]):
        name, first = (
            report.shown(("routes", index, "name"), route_name(config, index))
            for index in (later, earlier)
        )
        where = report.where(("routes", earlier))
        got = f'"{name}", for which nothing is left: "{first}" ({where}) takes it all first'
        _warn(report, codes.SHADOWED, ("routes", later), got, "the narrower route first")


def _warn_pools(config: Config, report: Report) -> None:
    used = {route.pool for route in config.routes}
    used |= {pool for v in config.listeners.values() for _, pool in relayed_to(v)}
    for name, pool in config.pools.items():
        if config.discovery is not None and (name not in used or not pool.endpoints):
            continue  # a label can use it or join it at any time
        if name not in used:
            got = "a pool that no route and no listener uses"
            _warn(report, codes.UNUSED_POOL, ("pools", name), got, "")
        if not any(endpoint.weight for endpoint in pool.endpoints):
            got = "a pool without endpoints" if not pool.endpoints else "only endpoints of weight 0"
            got += ": every request for it is answered with 503"
            path = ("pools", name, "endpoints")
            _warn(report, codes.EMPTY_POOL, path, got, "at least one endpoint")


def _warn_tls(config: Config, report: Report) -> None:
    if config.gateway.danger_key_log is not None:
        got = "a file for the keys of TLS connections: whoever reads it can decrypt them"
        _warn(report, codes.KEY_LOG, ("gateway", "danger_key_log"), got, "no such file")
    if any(v.tls and v.tls.client for v in config.listeners.values()):
        return
    for index, route in enumerate(config.routes):
        if route.match.client_certificate is not None:
            got = "client_certificate, but no listener asks for one: the route is never taken"
            path = ("routes", index, "match", "client_certificate")
            _warn(report, codes.NO_CLIENT_CA, path, got, "tls: {client: {ca: …}} in a listener")


def _warn(
    report: Report, code: codes.Code, path: tuple[PathStep, ...], got: str, wanted: str
) -> None:
    report.add(code, path, got=got, wanted=wanted, severity="warning", at_key=True)
