"""What a configuration asks of its host; every figure is an upper bound that it names itself."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.config.listeners import Listener

#: Descriptors of a process besides those of connections.
_OWN_DESCRIPTORS = 100
#: A tcp connection: two sockets, and a pipe for each direction that became bulk.
_EDGE_DESCRIPTORS = 6


def ports(config: Config) -> Iterator[tuple[str, int]]:
    """Yield each listener's name and port; port 0 is the kernel's to choose."""
    for name, listener in config.listeners.items():
        for bind in listener.bind:
            if not bind.startswith("unix:"):
                yield name, int(bind.rpartition(":")[2])


def of_protocol(config: Config, protocol: str) -> dict[str, Listener]:
    """Return the listeners of one protocol."""
    return {n: v for n, v in config.listeners.items() if str(v.protocol) == protocol}


def client_connections(config: Config, protocol: str) -> int | None:
    """Return how many clients of a protocol may be connected at once; None = it names no bound."""
    listeners = of_protocol(config, protocol).values()
    if any(listener.max_connections == 0 for listener in listeners):
        return None
    return sum(listener.max_connections for listener in listeners)


def edge_descriptors(config: Config) -> int | None:
    """Return how many descriptors the edge may need."""
    clients = client_connections(config, "tcp")
    return None if clients is None else _OWN_DESCRIPTORS + clients * _EDGE_DESCRIPTORS


def gateway_descriptors(config: Config) -> int | None:
    """Return how many descriptors a gateway may need: while others restart, it has all."""
    clients = client_connections(config, "http")
    if clients is None:
        return None
    routed = {route.pool for route in config.routes}
    idle = sum(
        pool.limits.idle_connections * len(pool.endpoints)
        for name, pool in config.pools.items()
        if name in routed
    )
    # each client has at most one connection to an endpoint, or a pipe instead of its buffers
    return _OWN_DESCRIPTORS + clients * 4 + idle


def connections_to_one_endpoint(config: Config) -> Iterator[tuple[str, int | None]]:
    """Yield each pool and how many connections may go to one of its endpoints from this host."""
    for name, pool in config.pools.items():
        users = [v for v in of_protocol(config, "tcp").values() if v.pool == name]
        routed = any(route.pool == name for route in config.routes)
        limit = pool.limits.connections
        if limit:
            edges = config.edge.workers if users else 0
            yield name, limit * ((config.gateway.workers if routed else 0) + edges)
        elif routed or any(user.max_connections == 0 for user in users):
            yield name, None
        elif users:
            yield name, sum(user.max_connections for user in users)
