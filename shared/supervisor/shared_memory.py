"""The memory that a node's processes map: each holds it as a descriptor."""

import os
from typing import TYPE_CHECKING, Any

from weirgate.shared import native
from weirgate.shared.supervisor.handoffs import Page

if TYPE_CHECKING:
    from weirgate.shared.supervisor.edges import Board


class SharedMemory:
    """The load page, the rate tables of each tier, and the board of places that edges hold."""

    def __init__(self, page: Page, rate_table_fd: int, *, edges: int) -> None:
        self.page = page
        self._rate_table_fd = rate_table_fd
        #: A part for each edge process, of which there are two of a worker for a while.
        self.board: Board = native.PlaceBoard.create(2 * edges)
        self._edge_rates_fd = native.create_rate_table()
        self._edge_bytes_fd = native.create_rate_table()

    def of_gateway(self) -> dict[str, Any]:
        """Return a gateway's descriptors besides the load page's, by their bootstrap's names."""
        return {"rate_table_fd": self._rate_table_fd}

    def of_edge(self) -> dict[str, Any]:
        """Return an edge's descriptors besides the load page's, by their bootstrap's names."""
        return {
            "rate_table_fd": self._edge_rates_fd,
            "byte_table_fd": self._edge_bytes_fd,
            "places_fd": self.board.fd,
        }

    def close(self) -> None:
        """Give the rate tables back."""
        os.close(self._rate_table_fd)
        os.close(self._edge_rates_fd)
        os.close(self._edge_bytes_fd)
