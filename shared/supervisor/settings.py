"""What the supervisor itself takes from a configuration."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weirgate.shared.addresses import split_address

if TYPE_CHECKING:
    from weirgate.shared.config import Config, Loaded

#: What "wait without end" is to a data plane.
_YEAR_SECONDS = 365 * 24 * 3600.0


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


def read(loaded: "Loaded", *, workers: int | None = None) -> Settings:
    """Read the settings; ``workers`` overrides the file."""
    config = loaded.config
    bind = None if config.admin.bind == "off" else config.admin.bind
    return Settings(
        workers=workers or config.gateway.workers,
        edge_workers=config.edge.workers,
        admin_bind=bind,
        admin_token=_token(config),
        drain_seconds=config.drain.timeout.total_seconds() or _YEAR_SECONDS,
        run_directory=config.run_directory,
        log_level=config.logs.level,
    )


def admin_is_open(config: "Config") -> bool:
    """Say whether other hosts could call the admin API without a token."""
    bind = config.admin.bind
    if bind == "off" or _token(config) is not None:
        return False
    return not ipaddress.ip_address(split_address(bind)[0]).is_loopback


def _token(config: "Config") -> str | None:
    token = config.admin.token
    return None if token is None else token.get_secret_value()
