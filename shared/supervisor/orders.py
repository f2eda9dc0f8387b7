"""An operator's order that something takes no new work: who gave it, when, and until when."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Order:
    """It holds until it is taken back; reloads and restarts of children do not touch it."""

    by: str
    #: After so long what is left is ended; None = it may take as long as it likes.
    deadline_seconds: float | None = None
    #: Of a gateway: start a fresh process as soon as the old one has finished.
    replace: bool = False
    #: Of a gateway: which of its processes is to finish.
    incarnation: int = 0
    since: float = field(default_factory=time.time)
    #: The deadline has passed.
    closing: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the order for JSON."""
        shown = {
            "by": self.by,
            "since": self.since,
            "deadline_seconds": self.deadline_seconds,
            "closing": self.closing,
        }
        return shown | ({"replace": True} if self.replace else {})
