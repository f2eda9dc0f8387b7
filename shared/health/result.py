"""What a check found."""

from dataclasses import dataclass

#: What one connection or request in flight counts for on a node with one gateway process.
WHOLE_UNITS = 1000


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How busy a gateway node says it is; all of its processes together."""

    connections: int
    requests_in_flight: int
    #: Smoothed time to answer of its slowest process.
    latency_us: int
    #: Processes that take connections.
    workers: int

    @property
    def units(self) -> int:
        """Connections and requests in flight for each process, in thousandths."""
        return (self.connections + self.requests_in_flight) * self.per_connection

    @property
    def per_connection(self) -> int:
        """What one more connection adds."""
        return WHOLE_UNITS // max(1, self.workers)


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found; ``error`` is empty when it passed."""

    error: str = ""
    #: Of a gateway node: its kernel did not answer, neither with a connection nor by refusing one.
    unreachable: bool = False
    #: It says nothing of the endpoint: this process itself was held up.
    inconclusive: bool = False
    #: Of a gateway node: it serves, but wants nothing new.
    draining: bool = False
    #: Of a gateway node.
    load: NodeLoad | None = None

    @property
    def passed(self) -> bool:
        """Whether the endpoint passed."""
        return not self.error
