"""Sources that the edge refuses for a while: which, why, by whom and until when.

The table is the supervisor's: it outlives reloads and restarts of the edge. What has ended leaves
whenever the table is looked at.
"""

import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weirgate.shared.addresses import Prefix
from weirgate.shared.errors import WeirgateError

#: The edge holds no more.
MAX_SHUNS = 100_000
_LOOPBACK = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


class ShunError(WeirgateError):
    """A source that is not taken into the table; the text says why."""


@dataclass(frozen=True, slots=True)
class Shun:
    """One shunned source."""

    prefix: Prefix
    #: The prefix as text: it is written often.
    source: str
    by: str
    reason: str
    #: Wall clock, to be shown.
    since: float
    until: float
    #: Monotonic clock, to be obeyed.
    ends: float


class ShunTable:
    """All shunned sources, the one added last at the end."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._shuns: dict[Prefix, Shun] = {}

    def add(
        self, prefix: Prefix, seconds: float, *, by: str, reason: str = "", force: bool = False
    ) -> Shun:
        """Shun a source for so long; one that is shunned already begins anew.

        Raises:
            ShunError: it would shut out everybody or this host itself, or the table is full.
        """
        if not force:
            _refuse_too_much(prefix)
        self._expire()
        if prefix not in self._shuns and len(self._shuns) >= MAX_SHUNS:
            raise ShunError(
                f"{MAX_SHUNS:,} sources are shunned already, no more are held: "
                "take some back, or shun a prefix that covers many"
            )
        now = self._wall()
        shun = Shun(prefix, str(prefix), by, reason, now, now + seconds, self._clock() + seconds)
        self._shuns.pop(prefix, None)  # so that it goes to the end
        self._shuns[prefix] = shun
        return shun

    def remove(self, prefix: Prefix) -> bool:
        """Take a source back; say whether it was there."""
        self._expire()
        return self._shuns.pop(prefix, None) is not None

    def shown(self) -> list[dict[str, Any]]:
        """Return the table for JSON."""
        now = self._expire()
        return [
            {
                "source": shun.source,
                "by": shun.by,
                "reason": shun.reason,
                "since": shun.since,
                "until": shun.until,
                "seconds_left": round(shun.ends - now, 3),
            }
            for shun in self._shuns.values()
        ]

    def entries(self) -> list[dict[str, Any]]:
        """Return the whole list for the edge: docs/contracts.md, section 8."""
        now = self._expire()
        return [
            {"source": shun.source, "ttl_ms": max(round((shun.ends - now) * 1000), 1)}
            for shun in self._shuns.values()
        ]

    def encoded(self) -> bytes:
        """Return that list as JSON bytes."""
        return json.dumps(self.entries(), separators=(",", ":")).encode()

    def _expire(self) -> float:
        """Drop what has ended; return the time."""
        now = self._clock()
        for prefix in [prefix for prefix, shun in self._shuns.items() if shun.ends <= now]:
            del self._shuns[prefix]
        return now


def _refuse_too_much(prefix: Prefix) -> None:
    if prefix.prefixlen == 0:
        raise ShunError(f"{prefix} is everybody; --force does it")
    for own in _LOOPBACK:
        if prefix.num_addresses > 1 and own in prefix:
            raise ShunError(f"{prefix} holds {own}, this host itself; --force does it")
