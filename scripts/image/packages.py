"""Which packages of the lock file a set of requirements needs, for any interpreter."""

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_STANZA = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) \\\n(?: +--hash=\S+(?: \\)?\n)+", re.MULTILINE
)


def closure(names: Iterable[str], python_version: str) -> list[str]:
    """Return the names, and those of all that they require, sorted.

    Read from the installed packages' own metadata; ``python_version`` (``3.12``) is the
    interpreter that they are for.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not installed here.
    """
    environment = {name: str(value) for name, value in default_environment().items()}
    environment["python_version"] = python_version
    environment["python_full_version"] = f"{python_version}.0"
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        extras = requirement.extras or {""}
        for text in importlib.metadata.requires(requirement.name) or ():
            needed = Requirement(text)
            wanted = needed.marker is None or any(
                needed.marker.evaluate({**environment, "extra": extra}) for extra in extras
            )
            if wanted and canonicalize_name(needed.name) not in found:
                waiting.append(needed)
    return sorted(found)


def stanzas(lock: Path) -> dict[str, str]:
    """Return the lock file's text for each package: its version and the hashes of its files."""
    return {
        canonicalize_name(match["name"]): match[0] for match in _STANZA.finditer(lock.read_text())
    }


def locked(names: Iterable[str], lock: Path, python_version: str) -> str:
    """Return the part of a lock file that these packages and their requirements are.

    Raises:
        KeyError: the lock file lacks one.
    """
    known = stanzas(lock)
    return "".join(known[name] for name in closure(names, python_version) if name != "weirgate")
