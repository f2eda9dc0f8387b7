"""How long to wait before a crashed process is started again."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Doubles from ``first`` to ``limit`` seconds; a life of ``stable_after`` starts it anew."""

    first: float = 0.05
    limit: float = 5.0
    stable_after: float = 10.0
    failures: int = 0

    def failed(self, lived: float) -> float:
        """Note one more end after so many seconds of life; return the seconds to wait."""
        self.failures = 1 if lived >= self.stable_after else self.failures + 1
        # the exponent is bounded, or months of crashes would overflow the float
        return min(self.limit, self.first * 2.0 ** min(self.failures - 1, 30))
