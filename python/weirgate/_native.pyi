# ruff: noqa: PYI021 - the extension has no source that an editor could show: its docs are here
"""Types of the Rust extension; the contract behind them is docs/contracts.md, section 4.

Every call releases the GIL. A data plane never calls Python.
"""

from typing import final

__all__ = [
    "EdgeDataPlane",
    "GatewayDataPlane",
    "LoadPage",
    "PlaceBoard",
    "__version__",
    "create_rate_table",
    "reasons",
    "validate",
]

__version__: str

@final
class EdgeDataPlane:
    """The layer 4 data plane: accepts, admits, selects and delivers connections."""

    def __new__(cls, bootstrap: bytes) -> EdgeDataPlane:
        """Keep the bootstrap for ``start()``."""

    def start(self) -> None:
        """Take over every descriptor in the bootstrap and start the data-plane thread.

        Traffic flows when this returns.

        Raises:
            ValueError: the bootstrap or the snapshot in it is not acceptable.
        """

    def apply(self, snapshot: bytes, generation: int) -> None:
        """Put a new snapshot in force.

        Raises:
            ValueError: the snapshot is refused; the old one stays in force.
        """

    def set_endpoints(self, states: bytes) -> None:
        """Replace the whole list of endpoint states."""

    def add_listener(self, key: str, fd: int) -> None:
        """Take over a listening socket, before the ``apply()`` that names its key."""

    def hand_over(self, fd: int) -> None:
        """Give way to the edge at the other end of ``fd``, which is taken over; 10 s at most.

        Raises:
            ValueError: it has not taken over; this one serves on.
        """

    def set_shuns(self, shuns: bytes) -> None:
        """Refuse these sources for a while; ``ValueError`` leaves the old list in force."""

    def metrics(self) -> bytes:
        """Return the metric families as JSON."""

    def status(self) -> bytes:
        """Return the state of the tier as JSON."""

    def snapshot(self) -> bytes:
        """Return the snapshot in force as JSON, secrets blanked."""

    def drain(self, deadline_ms: int) -> None:
        """Take no new work and finish the old; after the deadline the rest is closed."""

    def stop(self) -> None:
        """Stop at once and join the thread."""

@final
class GatewayDataPlane:
    """The layer 7 data plane: TLS, HTTP, routes, filters, pools and retries."""

    def __new__(cls, bootstrap: bytes) -> GatewayDataPlane:
        """Keep the bootstrap for ``start()``."""

    def start(self) -> None:
        """Take over every descriptor in the bootstrap and start the data-plane thread.

        Traffic flows when this returns.

        Raises:
            ValueError: the bootstrap or the snapshot in it is not acceptable.
        """

    def apply(self, snapshot: bytes, generation: int) -> None:
        """Put a new snapshot in force.

        Raises:
            ValueError: the snapshot is refused; the old one stays in force.
        """

    def set_endpoints(self, states: bytes) -> None:
        """Replace the whole list of endpoint states."""

    def metrics(self) -> bytes:
        """Return the metric families as JSON."""

    def status(self) -> bytes:
        """Return the state of the tier as JSON."""

    def snapshot(self) -> bytes:
        """Return the snapshot in force as JSON, secrets blanked."""

    def drain(self, deadline_ms: int) -> None:
        """Take no new work and finish the old; after the deadline the rest is closed."""

    def stop(self) -> None:
        """Stop at once and join the thread."""

@final
class LoadPage:
    """The supervisor's view of the page that gateways publish their load in."""

    @property
    def fd(self) -> int:
        """The memfd; children inherit it."""

    @staticmethod
    def create(gateways: int) -> LoadPage:
        """Make a page with one slot per gateway."""

    def set_state(self, index: int, state: str) -> None:
        """Set a slot to ``starting``, ``ready``, ``draining`` or ``down``."""

    def count_taken(self, index: int) -> None:
        """Count a connection that was taken from a gateway's queue in its place."""

    def read(self) -> list[dict[str, object]]:
        """Return each slot: index, state, heartbeat_ms, connections, and so on."""

@final
class PlaceBoard:
    """The supervisor's view of the places in limits that edge processes hold together."""

    @property
    def fd(self) -> int:
        """The memfd; edges inherit it."""

    @staticmethod
    def create(regions: int) -> PlaceBoard:
        """Make a board with one region per edge process that can be alive, 1 to 32."""

    def empty(self, region: int) -> None:
        """Forget what a process held that has ended."""

def create_rate_table() -> int:
    """Make the node's shared table of rate-limit buckets; return its memfd."""

def validate(snapshot: bytes) -> list[tuple[str, str]]:
    """Return what the data planes would refuse: (JSON path, message); empty = fine."""

def reasons() -> list[dict[str, object]]:
    """Return every reason: code, origin, status, text."""
