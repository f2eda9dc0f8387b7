"""Rise and fall: how single results become an endpoint's state."""

from dataclasses import dataclass

from weirgate.shared.health.result import Result


@dataclass(slots=True)
class HealthState:
    """One endpoint's health; it outlives reloads.

    The first result decides at once: waiting for ``rise`` results at start would leave a node
    without a single endpoint for that long.
    """

    state: str = "unknown"
    since: float = 0.0
    last_error: str = ""
    checks_total: int = 0
    failures_total: int = 0
    _streak: int = 0

    def record(self, result: Result, *, rise: int, fall: int, now: float) -> bool:
        """Take one result; say whether the state changed."""
        self.checks_total += 1
        if not result.passed:
            self.failures_total += 1
            self.last_error = result.error
        wanted = "up" if result.passed else "down"
        if wanted == self.state:
            self._streak = 0
            return False
        self._streak += 1
        if self.state != "unknown" and self._streak < (rise if result.passed else fall):
            return False
        self.state, self.since, self._streak = wanted, now, 0
        return True
