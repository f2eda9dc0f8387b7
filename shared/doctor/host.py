"""The host's settings, read below a directory that is ``/proc`` or a copy for tests."""

import re
from dataclasses import dataclass
from pathlib import Path

_OPEN_FILES = re.compile(r"^Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)", re.MULTILINE)
_CAPABILITIES = re.compile(r"^CapEff:\s+([0-9a-f]+)", re.MULTILINE)
_UNLIMITED = 2**63


@dataclass(frozen=True, slots=True)
class Host:
    """Everything is ``None`` that cannot be read."""

    proc: Path = Path("/proc")

    def sysctl(self, name: str) -> str | None:
        """Return a kernel setting such as ``net.core.somaxconn``."""
        return self._read("sys/" + name.replace(".", "/"))

    def number(self, name: str) -> int | None:
        """Return a kernel setting that is one number."""
        numbers = self.numbers(name)
        return numbers[0] if len(numbers) == 1 else None

    def numbers(self, name: str) -> list[int]:
        """Return a kernel setting that is a row of numbers; empty where it is not."""
        words = (self.sysctl(name) or "").split()
        return [int(word) for word in words] if all(w.isdigit() for w in words) else []

    def words(self, name: str) -> list[str] | None:
        """Return a kernel setting that is a row of words."""
        text = self.sysctl(name)
        return None if text is None else text.split()

    def open_files(self) -> tuple[int, int] | None:
        """Return the soft and the hard limit of descriptors of this process."""
        match = _OPEN_FILES.search(self._read("self/limits") or "")
        if match is None:
            return None
        soft, hard = (_UNLIMITED if t == "unlimited" else int(t) for t in match.groups())
        return soft, hard

    def has_capability(self, bit: int) -> bool | None:
        """Say whether this process has a capability."""
        match = _CAPABILITIES.search(self._read("self/status") or "")
        return None if match is None else bool(int(match[1], 16) >> bit & 1)

    def _read(self, path: str) -> str | None:
        try:
            return (self.proc / path).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
