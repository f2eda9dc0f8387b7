"""The groups of checks: one module each, and a line here."""

from collections.abc import Callable, Iterable

from weirgate.shared.config import Config
from weirgate.shared.doctor.checks import (
    buffers,
    conntrack,
    descriptors,
    handshake,
    options,
    ports,
    privileges,
)
from weirgate.shared.doctor.finding import Finding
from weirgate.shared.doctor.host import Host

Check = Callable[[Host, Config], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    privileges.check,
    descriptors.check,
    handshake.check,
    ports.check,
    conntrack.check,
    options.check,
    buffers.check,
)


def examine(host: Host, config: Config) -> list[Finding]:
    """Make every check."""
    return [finding for check in CHECKS for finding in check(host, config)]
