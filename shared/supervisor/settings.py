"""What the supervisor itself takes from a configuration."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared.addresses import split_address
from weirgate.shared.config.nodes import Role, node_names
from weirgate.shared.config.roles import JITTER_PERCENT

if TYPE_CHECKING:
    from weirgate.shared.config import Config, Loaded

#: What "wait without end" is to a data plane.
_YEAR_SECONDS = 365 * 24 * 3600.0
#: From an answer that an edge has read to its data plane acting on it, on a busy host.
_TOLD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """The node's own settings; the data planes' are in the snapshot."""

    workers: int
    edge_workers: int
    admin_bind: str | None
    admin_token: str | None
    drain_seconds: float
    run_directory: Path | None
    log_level: str
    role: Role = Role.BOTH
    #: Where gateways of other containers attach themselves, to ``workers`` seats.
    attach_socket: Path | None = None
    #: Of a gateway node: where it tells its load, to the hosts of which networks, and how long it
    #: takes until every edge has asked.
    load_binds: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    notice_seconds: float = 0.0
    #: Of an edge: the names that gateway nodes are found by.
    gateway_names: frozenset[str] = frozenset()


def read(loaded: "Loaded", *, workers: int | None = None) -> Settings:
    """Read the settings; ``workers`` overrides the file."""
    config = loaded.config
    bind = None if config.admin.bind == "off" else config.admin.bind
    attach = config.gateway.attach if loaded.role is Role.BOTH else None
    return Settings(
        workers=_gateways(loaded, workers),
        edge_workers=config.edge.workers,
        admin_bind=bind,
        admin_token=_token(config),
        drain_seconds=config.drain.timeout.total_seconds() or _YEAR_SECONDS,
        # the control sockets of attached gateways are beside the one that they attach to
        run_directory=config.run_directory or (attach.socket.parent / "node" if attach else None),
        attach_socket=attach.socket if attach else None,
        log_level=config.logs.level,
        role=loaded.role,
        gateway_names=node_names(config) if loaded.role is Role.EDGE else frozenset(),
        **_of_gateway_node(loaded),
    )


def _gateways(loaded: "Loaded", workers: int | None) -> int:
    gateway = loaded.config.gateway
    if loaded.role is Role.EDGE:
        return 0
    if loaded.role is Role.BOTH and gateway.attach is not None:
        return gateway.attach.seats
    return workers or gateway.workers


def _of_gateway_node(loaded: "Loaded") -> dict[str, Any]:
    nodes = loaded.config.gateway.nodes
    if loaded.role is not Role.GATEWAY or nodes is None:
        return {}
    health = nodes.health
    interval = health.interval.total_seconds() * (1 + JITTER_PERCENT / 100)
    return {
        "load_binds": health.bind,
        "edges": nodes.edges,
        "notice_seconds": interval + health.timeout.total_seconds() + _TOLD_SECONDS,
    }


def admin_is_open(config: "Config") -> bool:
    """Say whether other hosts could call the admin API without a token."""
    bind = config.admin.bind
    if bind == "off" or _token(config) is not None:
        return False
    return not ipaddress.ip_address(split_address(bind)[0]).is_loopback


def _token(config: "Config") -> str | None:
    token = config.admin.token
    return None if token is None else token.get_secret_value()
