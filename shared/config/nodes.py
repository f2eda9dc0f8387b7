"""The ``gateway.nodes`` section: gateways on hosts of their own."""

import enum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from weirgate.shared.addresses import split_address
from weirgate.shared.config.addresses import Network, SocketBind, is_host_name
from weirgate.shared.config.base import Many, OneOrMany, Section
from weirgate.shared.config.pools import EndpointItem
from weirgate.shared.config.scalars import PositiveDuration, duration

if TYPE_CHECKING:
    from weirgate.shared.config.listeners import Listener
    from weirgate.shared.config.schema import Config

MAX_NODES = 256
MAX_EDGES = 1000
#: The pool of an edge that holds the gateway nodes.
POOL = "gateways"
#: The listener of a gateway node that takes the connections of the edges.
LISTENER = "edges"


class Role(enum.Enum):
    """Which tiers a node runs."""

    BOTH = "up"
    EDGE = "edge"
    GATEWAY = "gateway"


class NodeHealth(Section):
    """How the edges learn whether a gateway node serves, and how busy it is."""

    bind: Annotated[OneOrMany[SocketBind], Field(min_length=1)] = Field(
        description="On each gateway node: `IP:port` of a listener that answers nothing but "
        "whether the node is ready or draining, and its load. It answers the hosts of `edges` and "
        "its own only. The edges ask each node at this port."
    )
    interval: PositiveDuration = Field(
        default=duration("1s"),
        description="Between two checks of a node by an edge. Shorter finds a dead node sooner, "
        "and gives fresher load to balance by.",
    )
    timeout: PositiveDuration = Field(
        default=duration("500ms"), description="For a whole check. Slower counts as failed."
    )
    rise: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Successes in a row that bring a node back."
    )
    fall: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2,
        description="Failures in a row that take a node out. When the node could not even be "
        "connected to each time, what the edge still has open to it is reset: a host that is "
        "cut off would let it hang. That happens at the latest after fall x (interval + 10 % + "
        "timeout).",
    )


class GatewayNodes(Section):
    """Gateways on other hosts than the edges: ``weirgate edge`` and ``weirgate gateway``."""

    endpoints: Annotated[Many[EndpointItem], Field(max_length=MAX_NODES)] = Field(
        default=(),
        description='`"host:port"`, or `{address, weight, …}`, as in pools: where the edges reach '
        "the gateway nodes. Each address that a name has is a node; names are resolved again and "
        "again. May be empty where `discovery` finds them.",
    )
    bind: Annotated[OneOrMany[SocketBind], Field(min_length=1)] = Field(
        description="On each gateway node: `IP:port` where connections of the edges are taken, "
        "of whatever listener."
    )
    edges: Annotated[OneOrMany[Network], Field(min_length=1, max_length=MAX_EDGES)] = Field(
        description="Addresses or networks of the edges. All others are refused: who may connect "
        "here may say who the client is."
    )
    connect_timeout: PositiveDuration = Field(
        default=duration("500ms"),
        description="Of an edge, for reaching a node; then the next one is tried, so that a dead "
        "one costs a client so much and no error.",
    )
    health: NodeHealth = Field(description="How the edges check the nodes.")


def needs_gateways(config: "Config") -> dict[str, "Listener"]:
    """Return the listeners whose connections end in a gateway."""
    return {n: v for n, v in config.listeners.items() if v.protocol == "http" or v.terminate}


def node_names(config: "Config") -> frozenset[str]:
    """Return the names that gateway nodes are found by."""
    nodes = config.gateway.nodes
    hosts = (split_address(e.address)[0] for e in (nodes.endpoints if nodes else ()))
    return frozenset(host for host in hosts if is_host_name(host))
