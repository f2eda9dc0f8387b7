"""The only door to the Rust extension: every other module takes the data planes from here."""

from weirgate._native import (
    EdgeDataPlane,
    GatewayDataPlane,
    LoadPage,
    PlaceBoard,
    __version__,
    create_rate_table,
    reasons,
    validate,
)

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
