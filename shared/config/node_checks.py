"""What is wrong with a configuration whose gateways run on hosts of their own."""

from weirgate.shared.addresses import split_address
from weirgate.shared.config import codes
from weirgate.shared.config.addresses import overlaps
from weirgate.shared.config.nodes import (
    LISTENER,
    POOL,
    GatewayNodes,
    needs_gateways,
    node_names,
)
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.schema import Config
from weirgate.shared.config.tree import Report, describe

_NODES: tuple[PathStep, ...] = ("gateway", "nodes")


def check_nodes(config: Config, report: Report) -> None:
    """Report every error; nothing where there are no nodes."""
    nodes = config.gateway.nodes
    if nodes is None:
        return
    for section, name in (("pools", POOL), ("listeners", LISTENER)):
        if name in (config.pools if section == "pools" else config.listeners):
            got = f"{describe(name)}, which gateway.nodes makes one of"
            report.add(codes.NODES, (section, name), got=got, wanted="another name", at_key=True)
    _check_trust(config, report)
    _check_endpoints(nodes, report)
    if not nodes.endpoints and config.discovery is None:
        wanted = "at least 1 entry, or discovery: who else knows where they are?"
        report.add(codes.RANGE, (*_NODES, "endpoints"), got="no gateway nodes", wanted=wanted)
    _check_binds(nodes, config.admin.bind, report)


def warn_nodes(config: Config, report: Report) -> None:
    """Report what is probably not meant."""
    nodes = config.gateway.nodes
    if nodes is None or config.gateway.cookie_secret is not None:
        return
    several = len(nodes.endpoints) > 1 or node_names(config) or config.discovery is not None
    sticky = any(item.kind == "sticky" for route in config.routes for item in route.filters)
    tls = any(listener.tls for listener in needs_gateways(config).values())
    if several and (sticky or tls):
        what = "sticky cookies" if sticky else "TLS sessions"
        got = f"no gateway.cookie_secret: {what} of one node mean nothing to another"
        wanted = "the same gateway.cookie_secret on every node"
        report.add(
            codes.NODE_SECRET, _NODES, got=got, wanted=wanted, severity="warning", at_key=True
        )


def _check_trust(config: Config, report: Report) -> None:
    for name, listener in needs_gateways(config).items():
        if listener.trusted_proxies and listener.proxy_protocol is not None:
            got = "trusted_proxies together with proxy_protocol, and gateway.nodes"
            wanted = "one of the two: a gateway on another host learns one address, the client's"
            path = ("listeners", name, "trusted_proxies")
            report.add(codes.NODES, path, got=got, wanted=wanted, at_key=True)


def _check_endpoints(nodes: GatewayNodes, report: Report) -> None:
    seen: set[str] = set()
    for index, endpoint in enumerate(nodes.endpoints):
        if endpoint.address in seen:
            path = (*_NODES, "endpoints", index, "address")
            got = f"{describe(endpoint.address)} a second time"
            report.add(codes.DUPLICATE_ENDPOINT, path, got=got, wanted="each address once")
        seen.add(endpoint.address)


def _check_binds(nodes: GatewayNodes, admin: str, report: Report) -> None:
    taken = [] if admin == "off" else [(admin, "admin.bind")]
    for where, binds in (("bind", nodes.bind), ("health.bind", nodes.health.bind)):
        for index, bind in enumerate(binds):
            path = (*_NODES, *where.split("."), index)
            other = next((name for known, name in taken if overlaps(bind, known)), None)
            if other is not None:
                got = f"{describe(bind)}, taken by {other}"
                wanted = "an address that nothing else uses"
                report.add(codes.BIND_TAKEN, path, got=got, wanted=wanted)
            taken.append((bind, f"gateway.nodes.{where}"))
    ports = {split_address(bind)[1] for bind in nodes.health.bind}
    if len(ports) > 1:
        got = "several ports"
        path = (*_NODES, "health", "bind")
        report.add(codes.NODES, path, got=got, wanted="one port: the edges ask there", at_key=True)
