"""Rules about the HTTP version that a pool speaks, and those who use the pool."""

from weirgate.shared.config import codes
from weirgate.shared.config.schema import Config, relayed_only_pools
from weirgate.shared.config.tree import Report, describe
from weirgate.shared.config.validate import Validated

_HTTP2 = "a pool with protocol: h2c, h2 or auto"


def check_protocols(validated: Validated, report: Report) -> None:
    """Refuse to bridge to gRPC where the pool cannot carry it."""
    pools = validated.config.pools
    for route, index in zip(validated.config.routes, validated.route_indices, strict=True):
        pool = pools.get(route.pool or "")
        if pool is None or pool.protocol != "http1":
            continue
        for place, item in enumerate(route.filters):
            if item.kind == "grpc_web":
                got = f"grpc_web to {describe(route.pool)}, a pool with protocol: http1"
                path = ("routes", index, "filters", place, "grpc_web")
                report.add(codes.GRPC_POOL, path, got=got, wanted=_HTTP2, at_key=True)


def warn_protocols(config: Config, report: Report) -> None:
    """Report gRPC to a pool that speaks HTTP/1.1, and a protocol that nobody speaks."""
    for index, route in enumerate(config.routes):
        pool = config.pools.get(route.pool or "")
        if route.match.grpc and pool is not None and pool.protocol == "http1":
            got = f"calls of gRPC to {describe(route.pool)}, a pool with protocol: http1"
            path = ("routes", index, "match", "grpc")
            report.add(
                codes.GRPC_OVER_HTTP1, path, got=got, wanted=_HTTP2, severity="warning", at_key=True
            )
    relayed_only = relayed_only_pools(config)
    for name, pool in config.pools.items():
        spoken = pool.health is not None and pool.health.path is not None
        if name in relayed_only and pool.protocol != "http1" and not spoken:
            got = f"protocol: {pool.protocol} in a pool that only tcp, tls and udp listeners use"
            report.add(
                codes.IDLE_PROTOCOL, ("pools", name, "protocol"), got=got, wanted="no protocol",
                severity="warning", at_key=True,
            )  # fmt: skip
