"""The files that a configuration names: read once each, and known again when they change."""

import os
from pathlib import Path
from typing import NamedTuple


class Signature(NamedTuple):
    """What tells one state of a file, or of a directory's entries, from another."""

    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Signature":
        """Read it from what ``stat`` says."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


#: A file that is not there, or that may not be looked at.
ABSENT = Signature(0, -1, 0)


def signature(path: Path) -> Signature:
    """Return the signature of a file or a directory now."""
    try:
        return Signature.of(path.stat())
    except (OSError, ValueError):
        return ABSENT


class WatchedFiles:
    """Reads files, and remembers each as it was just before it was read.

    What is remembered is what the supervisor looks at afterwards. A change between the two is so
    seen, too, and also a file that could not be read.
    """

    def __init__(self) -> None:
        #: Every file and directory that was to be read.
        self.seen: dict[Path, Signature] = {}

    def read(self, file: Path, limit: int) -> bytes:
        """Return what a file holds; one byte more than ``limit`` says that it is longer.

        Raises:
            OSError: It cannot be read.
            ValueError: Its name has a NUL character.
        """
        first = self._expect(file)
        with file.open("rb") as handle:
            if first:
                self.seen[file] = Signature.of(os.fstat(handle.fileno()))
            return handle.read(limit + 1)

    def names(self, directory: Path) -> list[str]:
        """Return the names of a directory's regular files, sorted; hidden ones are left out.

        Raises:
            OSError: It cannot be read.
            ValueError: Its name has a NUL character.
        """
        if self._expect(directory):
            self.seen[directory] = signature(directory)
        with os.scandir(directory) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())

    def look(self, directory: Path) -> None:
        """Remember a directory whose entries somebody else reads, as it is now."""
        if self._expect(directory):
            self.seen[directory] = signature(directory)

    def _expect(self, path: Path) -> bool:
        """Say whether it is looked at for the first time: that look is the one that counts.

        If it changes between two of them, the later one alone would hide that.
        """
        if "\0" in str(path) or path in self.seen:
            return False
        self.seen[path] = ABSENT
        return True
