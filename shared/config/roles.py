"""One file, two kinds of host: the part of a configuration that an edge or a gateway node runs.

A role is a change of the checked configuration before it is compiled: an edge relays to a pool of
gateway nodes what it would otherwise hand over, and a gateway node takes connections from edges
only. The data planes learn little of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from weirgate.shared.addresses import join_address, split_address
from weirgate.shared.config import codes
from weirgate.shared.config.listeners import Listener, relayed_to
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.nodes import LISTENER, POOL, GatewayNodes, Role, needs_gateways
from weirgate.shared.config.pools import Eject, Endpoint, Pool
from weirgate.shared.config.problem import ConfigErrors
from weirgate.shared.config.scalars import to_ms
from weirgate.shared.config.schema import Config
from weirgate.shared.config.tree import Report

#: The jitter of the checks of nodes, in percent of the interval.
JITTER_PERCENT = 10
#: Every node is tried before a client is refused, but no more than so many after the first.
_RETRIES = 10

Names = Mapping[str, Sequence[str]]


def in_role(loaded: Loaded, role: Role, names: Names) -> Loaded:
    """Return the configuration that a host of this role runs.

    Args:
        loaded: What the file says.
        role: With ``BOTH`` nothing is changed.
        names: The addresses that names of gateway nodes have; one that is not there stays a name.

    Raises:
        ConfigErrors: The file does not say what this role needs.
    """
    if role is Role.BOTH:
        return loaded
    report = Report(loaded.tree)
    if role is Role.EDGE:
        config = _edge(loaded.config, names, report)
    else:
        config = _gateway(loaded.config, report)
    if report.problems:
        raise ConfigErrors(report.problems)
    return replace(loaded, config=config, role=role)


def node_pool(nodes: GatewayNodes) -> dict[str, Any]:
    """Return what the pool of gateway nodes has in the snapshot instead of what pools can have."""
    health = nodes.health
    return {
        "balance": {"policy": "least_load"},
        "gateways": True,
        "health": {
            "kind": "gateway",
            "interval_ms": to_ms(health.interval),
            "timeout_ms": to_ms(health.timeout),
            "rise": health.rise,
            "fall": health.fall,
            "jitter_percent": JITTER_PERCENT,
            "port": split_address(health.bind[0])[1],
        },
    }


def _edge(config: Config, names: Names, report: Report) -> Config:
    nodes, needing = config.gateway.nodes, needs_gateways(config)
    if nodes is None:
        for name, listener in needing.items():
            kind = (
                "an http listener" if listener.protocol == "http" else "a listener that terminates"
            )
            got = f"{kind}, but no gateway.nodes"
            wanted = "gateway.nodes: where this edge reaches gateways"
            report.add(codes.ROLE, ("listeners", name), got=got, wanted=wanted, at_key=True)
        pools = config.pools
    else:
        pools = {**config.pools, POOL: _pool(nodes, names)}
    listeners = {
        name: _relayed(listener) if name in needing else listener
        for name, listener in config.listeners.items()
    }
    used = {pool for listener in listeners.values() for _, pool in relayed_to(listener)}
    return config.model_copy(
        update={
            "listeners": listeners,
            "pools": {name: pool for name, pool in pools.items() if name in used},
            "routes": (),
            # it signs cookies and encrypts tickets: an edge has no use for it, nor keys to log
            "gateway": config.gateway.model_copy(
                update={"cookie_secret": None, "danger_key_log": None}
            ),
        }
    )


def _relayed(listener: Listener) -> Listener:
    """Send to the gateway nodes what a gateway of this node would get; no key is needed here."""
    common: dict[str, Any] = {"tls": None, "trusted_proxies": ()}
    if listener.protocol == "http":
        return listener.model_copy(update={**common, "protocol": "tcp", "pool": POOL})
    everything = "*" in listener.terminate
    ended = {name: POOL for name in listener.terminate if name != "*"}
    return listener.model_copy(
        update={
            **common,
            "sni": {**listener.sni, **ended},
            "terminate": (),
            "default": POOL if everything else listener.default,
        }
    )


def _pool(nodes: GatewayNodes, names: Names) -> Pool:
    return Pool(
        endpoints=tuple(_expanded(nodes.endpoints, names)),
        connect_timeout=nodes.connect_timeout,
        retries=_RETRIES,
        # that a node cannot be connected to is no matter of opinion
        eject=Eject(max_percent=100),
        proxy_protocol="v2",
    )


def _expanded(endpoints: Iterable[Endpoint], names: Names) -> Iterator[Endpoint]:
    seen: set[str] = set()
    for endpoint in endpoints:
        host, port = split_address(endpoint.address)
        found = names.get(host) or ()
        addresses = [join_address(address, port) for address in found] or [endpoint.address]
        for address in addresses:
            if address not in seen:
                seen.add(address)
                yield endpoint.model_copy(update={"address": address})


def _gateway(config: Config, report: Report) -> Config:
    nodes, needing = config.gateway.nodes, needs_gateways(config)
    if nodes is None:
        wanted = "gateway.nodes: where this node takes connections, and of which edges"
        report.add(codes.ROLE, ("gateway",), got="no gateway.nodes", wanted=wanted, at_key=True)
        return config
    if not needing:
        got = "no listener whose connections end in a gateway"
        wanted = "an http listener, or a tls listener with terminate"
        report.add(codes.ROLE, ("listeners",), got=got, wanted=wanted, at_key=True)
    edges = list(nodes.edges)
    own = Listener.model_validate(
        {"bind": list(nodes.bind), "proxy_protocol": {"from": edges}, "allow": edges}
    )
    used = {route.pool for route in config.routes}
    return config.model_copy(
        update={
            "listeners": {LISTENER: own, **{n: _served(v) for n, v in needing.items()}},
            "pools": {name: pool for name, pool in config.pools.items() if name in used},
        }
    )


def _served(listener: Listener) -> Listener:
    """Keep what a gateway does with a connection; whom to admit is the edge's to say."""
    kept = ("tls", "trusted_proxies")
    plain = Listener.model_validate({"bind": "127.0.0.1:0"})
    return plain.model_copy(update={"bind": (), **{key: getattr(listener, key) for key in kept}})
