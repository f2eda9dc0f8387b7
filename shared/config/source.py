"""A configuration file and all that it includes → one tree."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weirgate.shared.config import codes
from weirgate.shared.config.codes import Code
from weirgate.shared.config.document import MAX_NODES, Document
from weirgate.shared.config.problem import Problem
from weirgate.shared.config.tree import Spot, Tree, describe
from weirgate.shared.config.watched import WatchedFiles

MAX_FILES = 1000
MAX_FILE_BYTES = 16 * 1024 * 1024


class Source:
    """Reads files, follows ``include`` and merges: listeners and pools by name, routes in order.

    After ``read``, ``complete`` tells whether every file could be parsed; if not, a name that
    nothing defines may only be missing because its file is.
    """

    def __init__(self, environ: Mapping[str, str], watched: WatchedFiles) -> None:
        self._environ = environ
        self._watched = watched
        self.problems: list[Problem] = []
        self.files: list[Path] = []
        self.complete = True
        self._done: set[Path] = set()
        self._nodes = 0

    def read(self, path: Path) -> Tree:
        """Return the merged tree; what went wrong is in ``problems``."""
        tree = Tree({}, Spot(path, 1, 1))
        self._read_into(tree, path, Spot(path, 1, 1), stack=())
        return tree

    def _read_into(self, tree: Tree, path: Path, named_at: Spot, stack: tuple[Path, ...]) -> None:
        real = path.resolve()
        if real in stack:
            chain = " → ".join(str(p.name) for p in (*stack[stack.index(real) :], real))
            self._add(codes.INCLUDE_LOOP, named_at, f"a loop: {chain}", "no file to include itself")
            return
        if real in self._done:
            return
        self._done.add(real)
        if len(self.files) >= MAX_FILES:
            self._add(codes.TOO_LARGE, named_at, "too many files", f"at most {MAX_FILES}")
            return
        text = self._text(path, named_at)
        if text is None:
            return
        self.files.append(path)
        part = self._parse(path, text)
        if part is None:
            return
        include = part.data.pop("include", None)
        include_spot = part.spot.children.pop("include", None)
        self._merge(tree, part)
        if include_spot is not None:
            self._include(tree, include, include_spot, (*stack, real))

    def _parse(self, path: Path, text: str) -> Tree | None:
        document = Document(path, self._environ, self.problems, MAX_NODES - self._nodes)
        result = document.read(text)
        self._nodes += document.nodes
        if result is None:
            self.complete = False
            return None
        data, spot = result
        if isinstance(data, dict):
            return Tree(data, spot)
        self.complete = False
        if data is None:
            got = "an empty file"
            self._add(codes.EMPTY, spot, got, "at least one listener: listeners: {…}")
        else:
            self._add(codes.TYPE, spot, describe(data), "a mapping with the key listeners")
        return None

    def _include(self, tree: Tree, include: Any, spot: Spot, stack: tuple[Path, ...]) -> None:
        items = include if isinstance(include, list) else [include]
        for index, item in enumerate(items):
            at = spot.children.get(index, spot)
            if at.broken:
                self.complete = False
            elif isinstance(item, str) and item:
                for path in self._matches(item, at):
                    self._read_into(tree, path, at, stack)
            else:
                wanted = "a file name or a glob such as conf.d/*.yaml, or a list of them"
                self._add(codes.TYPE, at, describe(item), wanted, path="include")

    def _matches(self, pattern: str, at: Spot) -> list[Path]:
        base = at.file.parent
        if not glob.has_magic(pattern):
            return [base / pattern]
        try:
            # Not Path.glob: it refuses absolute patterns.
            for directory in glob.glob(str(Path(pattern).parent), root_dir=base):  # noqa: PTH207
                self._watched.look(base / directory)  # a file may come into it
            names = glob.glob(pattern, root_dir=base, recursive=True)  # noqa: PTH207
            return [base / name for name in sorted(names)]
        except (OSError, ValueError):
            self._add(codes.FILE, at, "a glob that cannot be read", "a glob", path="include")
            return []

    def _text(self, path: Path, named_at: Spot) -> str | None:
        failure: str
        try:
            data = self._watched.read(path, MAX_FILE_BYTES)
            if len(data) > MAX_FILE_BYTES:
                failure = "a file beyond 16 MiB"
            else:
                return data.decode("utf-8-sig")
        except OSError as error:
            failure = f"{describe(str(path))}: {(error.strerror or 'an error').lower()}"
        except UnicodeDecodeError as error:
            failure = f"{describe(str(path))}: not UTF-8 at byte {error.start}"
        except ValueError:
            failure = "a path with a NUL character"
        self.complete = False
        self._add(codes.FILE, named_at, failure, "a readable UTF-8 file")
        return None

    def _merge(self, tree: Tree, part: Tree) -> None:
        for key, value in part.data.items():
            spot = part.spot.children[key]
            if key not in tree.data:
                tree.data[key], tree.spot.children[key] = value, spot
            elif key in {"listeners", "pools"}:
                self._merge_names(tree, key, value, spot)
            elif key == "routes":
                self._append_routes(tree, value, spot)
            else:
                self._twice(key, tree.spot.children[key], spot)

    def _merge_names(self, tree: Tree, key: str, names: Any, spot: Spot) -> None:
        target, target_spot = tree.data[key], tree.spot.children[key]
        if not isinstance(target, dict) or not isinstance(names, dict):
            self._unmergeable(key, names, spot, dict)
            return
        # Copies: through an alias the same mapping may stand at another place, too.
        target = tree.data[key] = dict(target)
        target_spot.children = dict(target_spot.children)
        for name, value in names.items():
            if name in target:
                self._twice(f"{key}.{name}", target_spot.children[name], spot.children[name])
            else:
                target[name], target_spot.children[name] = value, spot.children[name]

    def _append_routes(self, tree: Tree, routes: Any, spot: Spot) -> None:
        target, target_spot = tree.data["routes"], tree.spot.children["routes"]
        if not isinstance(target, list) or not isinstance(routes, list):
            self._unmergeable("routes", routes, spot, list)
            return
        children = dict(target_spot.children)
        for index in range(len(routes)):
            children[len(target) + index] = spot.children[index]
        target_spot.children = children
        tree.data["routes"] = [*target, *routes]

    def _unmergeable(self, key: str, value: Any, spot: Spot, kind: type) -> None:
        # A wrong first part is reported when the merged tree is validated.
        self.complete = False
        if not isinstance(value, kind):
            wanted = "a list" if kind is list else "a mapping"
            self._add(codes.TYPE, spot, describe(value), wanted, path=key)

    def _twice(self, path: str, first: Spot, second: Spot) -> None:
        line, column = second.key or (second.line, second.column)
        first_line = first.key[0] if first.key else first.line
        at = Spot(second.file, line, column)
        got = f"a second definition (the first is {first.file}:{first_line})"
        self._add(codes.DUPLICATE_NAME, at, got, "one definition", path=path)

    def _add(self, code: Code, at: Spot, got: str, wanted: str, path: str = "") -> None:
        # A name that came from the environment is not shown.
        if at.raw is not None:
            got = describe(at.raw)
        self.problems.append(
            Problem(
                code.id,
                "error",
                str(at.file),
                at.line,
                at.column,
                path,
                got,
                wanted,
                code.first_aid,
            )
        )
