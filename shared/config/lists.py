"""Lists of networks in files of their own: one a line, ``#`` for comments."""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import FILE, NETWORK_FORM
from weirgate.shared.config.problem import PathStep, Problem, render_path
from weirgate.shared.config.tree import Report, Tree, describe
from weirgate.shared.config.watched import WatchedFiles

MAX_PREFIXES = 100_000
MAX_LIST_BYTES = 8 * 2**20
_SHOWN_LINES = 10


class PrefixFiles:
    """Reads the lists that a configuration names, each file once; what is wrong is reported."""

    def __init__(self, tree: Tree, report: Report, watched: WatchedFiles) -> None:
        self._tree = tree
        self._report = report
        self._watched = watched
        self._known: dict[Path, list[str] | None] = {}

    def expand(
        self, path: tuple[PathStep, ...], entries: Sequence[str], *, needed: bool = False
    ) -> list[str]:
        """Return networks, each ``file:`` among the entries replaced by what it holds.

        ``needed`` = a list that comes out empty would mean something else than it says.
        """
        found: dict[str, None] = {}
        whole = True
        for index, entry in enumerate(entries):
            if not entry.startswith(FILE):
                found[entry] = None
                continue
            held = self._read((*path, index), entry.removeprefix(FILE))
            whole = whole and held is not None
            found.update(dict.fromkeys(held or ()))
        if whole and len(found) > MAX_PREFIXES:
            got = f"{len(found):,} networks"
            self._report.add(codes.LIST, path, got=got, wanted=f"at most {MAX_PREFIXES:,}")
        if whole and needed and entries and not found:
            got, wanted = "lists without a network", "at least one: none would let everybody in"
            hint = "to let nobody in, remove the listener"
            self._report.add(codes.LIST, path, got=got, wanted=wanted, hint=hint)
        return list(found)

    def _read(self, path: tuple[PathStep, ...], name: str) -> list[str] | None:
        """Return what one file holds, or ``None`` when that was reported."""
        _, spot = self._tree.nearest(path)
        file = spot.file.parent / name
        if file not in self._known:
            text = self._text(path, file, name)
            self._known[file] = None if text is None else self._parse(path, file, text)
        return self._known[file]

    def _text(self, path: tuple[PathStep, ...], file: Path, name: str) -> str | None:
        hint = "" if name.startswith("/") else f"paths are relative to {self._place(path)}"
        try:
            data = self._watched.read(file, MAX_LIST_BYTES)
            if len(data) <= MAX_LIST_BYTES:
                return data.decode("utf-8-sig")
            got, hint = f"{describe(name)}: beyond 8 MiB", "split it"
        except OSError as error:
            got = f"{describe(name)}: {(error.strerror or 'an error').lower()}"
        except UnicodeDecodeError:
            got, hint = f"{describe(name)}: no text", ""
        self._report.add(codes.LIST, path, got=got, wanted="a readable list", hint=hint)
        return None

    def _place(self, path: tuple[PathStep, ...]) -> Path:
        return self._tree.nearest(path)[1].file

    def _parse(self, path: tuple[PathStep, ...], file: Path, text: str) -> list[str] | None:
        found, wrong = [], 0
        for number, column, word in _words(text):
            network = _normal(word)
            if network is not None:
                found.append(network)
                continue
            wrong += 1
            if wrong <= _SHOWN_LINES:
                self._refuse(path, file, number, column, describe(word), _hint(word))
        if wrong > _SHOWN_LINES:
            more = f"{wrong - _SHOWN_LINES} more lines like these"
            self._refuse(path, file, number, 1, more, "")
        return None if wrong else found

    def _refuse(
        self, path: tuple[PathStep, ...], file: Path, line: int, column: int, got: str, hint: str
    ) -> None:
        written, _ = self._tree.nearest(path)
        self._report.problems.append(
            Problem(
                codes.NETWORK.id, "error", str(file), line, column, render_path(written), got,
                NETWORK_FORM, hint,
            )
        )  # fmt: skip


def _words(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield what stands on each line before its comment, with line and column."""
    for number, line in enumerate(text.split("\n"), start=1):
        word = line.partition("#")[0].strip()
        if word:
            yield number, line.index(word) + 1, word


def _normal(word: str) -> str | None:
    """Return a network the way the snapshot writes it; by the C library, for lists are long."""
    address, slash, length = word.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    try:
        packed = socket.inet_pton(family, address)
        prefix = int(length) if slash else bits
    except (OSError, ValueError):
        return None
    if not 0 <= prefix <= bits or (slash and not length.isdigit()):
        return None
    if int.from_bytes(packed) & ((1 << (bits - prefix)) - 1):
        return None
    return f"{socket.inet_ntop(family, packed)}/{prefix}"


def _hint(word: str) -> str:
    if "%" in word:
        return "a zone is no part of it"
    try:
        return f'did you mean "{ipaddress.ip_network(word, strict=False)}"?'
    except ValueError:
        return ""
