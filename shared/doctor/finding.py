"""One setting, looked at."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: ``unknown`` = it could not be read; nothing is guessed about it.
Severity = Literal["ok", "warning", "error", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A setting, its value, what is wanted of it, why, and the command that mends it."""

    setting: str
    value: str
    severity: Severity
    why: str
    wanted: str = ""
    command: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def fine(setting: str, value: object, why: str) -> Finding:
    """A setting that holds nothing back."""
    return Finding(setting, str(value), "ok", why)


def unreadable(setting: str, why: str) -> Finding:
    """A setting that could not be read."""
    return Finding(setting, "cannot be read", "unknown", why)
