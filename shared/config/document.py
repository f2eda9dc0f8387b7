"""One YAML 1.2 file → plain data with the place of every node."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from weirgate.shared.config import codes
from weirgate.shared.config.codes import Code
from weirgate.shared.config.interpolate import BadReferenceError, expand, has_reference
from weirgate.shared.config.problem import Problem
from weirgate.shared.config.tree import Spot, describe

MAX_DEPTH = 64
MAX_NODES = 500_000

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.nan"
)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAG = "tag:yaml.org,2002:"
# libyaml where PyYAML was built with it: about ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def scalar(text: str) -> Any:
    """Give an unquoted scalar its type by the YAML 1.2 core schema: ``off`` and ``no`` are strings.

    Raises:
        ValueError: A number with more digits than Python converts.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if _FLOAT.fullmatch(text):
        return float(
            text.replace(".inf", "inf")
            .replace(".Inf", "inf")
            .replace(".INF", "inf")
            .replace(".nan", "nan")
        )
    return text


class Document:
    """Builds the data of one file; problems go to the list given, and it goes on where it can."""

    def __init__(
        self, file: Path, environ: Mapping[str, str], problems: list[Problem], budget: int
    ) -> None:
        self._file = file
        self._environ = environ
        self._problems = problems
        self._budget = budget
        self.nodes = 0
        self._anchors: dict[str, tuple[Any, Spot, int]] = {}
        self._events: Iterator[Any] = iter(())

    def read(self, text: str) -> tuple[Any, Spot] | None:
        """Return the data and its places, or ``None`` where the file could not be parsed."""
        try:
            self._events = iter(yaml.parse(text, Loader=_LOADER))
            next(self._events)  # stream start
            event = next(self._events)
            if isinstance(event, yaml.StreamEndEvent):
                return None, Spot(self._file, 1, 1)
            result = self._node(next(self._events), depth=0)
            next(self._events)  # document end
            event = next(self._events)
            if not isinstance(event, yaml.StreamEndEvent):
                self._report(
                    codes.UNSUPPORTED_YAML, event, "a second document", "one document in a file"
                )
        except yaml.YAMLError as error:
            self._problems.append(_syntax_problem(self._file, text, error))
            return None
        except _StopReadingError:
            return None
        else:
            return result

    def _node(self, event: Any, depth: int) -> tuple[Any, Spot]:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self.nodes
        self._count(event, 1)
        if depth > MAX_DEPTH:
            self._stop(event, "a node nested too deeply", f"at most {MAX_DEPTH} levels")
        spot = self._spot(event)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, spot)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            value = self._sequence(spot, depth)
        else:
            self._check_tag(event, "map")
            value = self._mapping(spot, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, spot, self.nodes - before)
        return value, spot

    def _alias(self, event: Any) -> tuple[Any, Spot]:
        known = self._anchors.get(event.anchor)
        if known is None:
            got = f"the alias *{event.anchor}"
            self._report(codes.UNSUPPORTED_YAML, event, got, "an anchor that is complete before it")
            spot = self._spot(event)
            spot.broken = True
            return None, spot
        value, spot, nodes = known
        self._count(event, nodes)
        return value, Spot(
            spot.file, spot.line, spot.column, None, spot.raw, spot.broken, spot.children
        )

    def _sequence(self, spot: Spot, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            value, child = self._node(event, depth + 1)
            spot.children[len(values)] = child
            values.append(value)
        return values

    def _mapping(self, spot: Spot, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merges: list[tuple[Any, Spot]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, depth)
            value, child = self._node(next(self._events), depth + 1)
            if key is None:
                continue
            if key == "<<" and event.implicit[0]:
                merges += _merge_sources(value, child)
                continue
            if key in values:
                line = (spot.children[key].key or (0, 0))[0]
                got = f"the key {describe(key)} again (first in line {line})"
                self._report(codes.DUPLICATE_KEY, event, got, "each key once")
                continue
            child.key = (event.start_mark.line + 1, event.start_mark.column + 1)
            values[key], spot.children[key] = value, child
        self._merge(values, spot, merges)
        return values

    def _key(self, event: Any, depth: int) -> str | None:
        if isinstance(event, yaml.ScalarEvent):
            self._count(event, 1)
            return str(event.value)
        self._report(
            codes.UNSUPPORTED_YAML, event, "a key that is no scalar", "a plain word as key"
        )
        self._node(event, depth + 1)
        return None

    def _merge(self, values: dict[str, Any], spot: Spot, merges: list[tuple[Any, Spot]]) -> None:
        for source, source_spot in merges:
            if not isinstance(source, dict):
                self._add(
                    codes.UNSUPPORTED_YAML,
                    (source_spot.line, source_spot.column),
                    f"<< with {describe(source)}",
                    "<<: with an alias of a mapping",
                )
                continue
            for key, value in source.items():
                if key not in values:
                    values[key], spot.children[key] = value, source_spot.children[key]

    def _scalar(self, event: Any, spot: Spot) -> Any:
        text: str = event.value
        if has_reference(text):
            spot.raw = text
            try:
                text = expand(text, self._environ)
            except BadReferenceError as error:
                spot.broken = True
                self._report(error.code, event, describe(event.value), error.wanted)
                return text
        plain = event.implicit[0] and not event.style
        convert: Callable[[str], Any] = scalar if plain else str
        if event.tag is not None and event.tag != "!":
            self._check_tag(event, "str")
            convert = str
        try:
            return convert(text)
        except ValueError:
            spot.broken = True
            self._report(codes.RANGE, event, "a huge number", "a number that a computer can count")
            return text

    def _check_tag(self, event: Any, plain: str) -> None:
        if event.tag not in {None, "!", _TAG + plain}:
            tag = event.tag.replace(_TAG, "!!")
            self._report(codes.UNSUPPORTED_YAML, event, f"the tag {tag}", "a value without a tag")

    def _count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > self._budget:
            self._stop(event, "too many nodes (aliases counted in full)", f"at most {MAX_NODES}")

    def _spot(self, event: Any) -> Spot:
        return Spot(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _stop(self, event: Any, got: str, wanted: str) -> None:
        self._report(codes.TOO_LARGE, event, got, wanted)
        raise _StopReadingError

    def _report(self, code: Code, event: Any, got: str, wanted: str) -> None:
        mark = event.start_mark
        self._add(code, (mark.line + 1, mark.column + 1), got, wanted)

    def _add(self, code: Code, place: tuple[int, int], got: str, wanted: str) -> None:
        self._problems.append(_problem(code, self._file, place, got, wanted))


class _StopReadingError(Exception):
    """Reading on would only cost; the problem is reported."""


def _merge_sources(value: Any, spot: Spot) -> list[tuple[Any, Spot]]:
    if isinstance(value, list):
        return [(item, spot.children[index]) for index, item in enumerate(value)]
    return [(value, spot)]


def _problem(
    code: Code, file: Path, place: tuple[int, int], got: str, wanted: str, hint: str = ""
) -> Problem:
    return Problem(
        code.id,
        "error",
        str(file),
        *place,
        path="",
        got=got,
        wanted=wanted,
        hint=hint or code.first_aid,
    )


def _syntax_problem(file: Path, text: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that YAML does not allow at all
        position = getattr(error, "position", None) or 0
        before = text[:position]
        place = (before.count("\n") + 1, position - before.rfind("\n"))
        got = "a control character"
        return _problem(codes.SYNTAX, file, place, got, "printable characters only")
    place = (mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        place = (place[0], line.index("\t") + 1)
        return _problem(codes.TAB, file, place, "a tab character", "spaces")
    context = getattr(error, "context", None)
    got = f"a YAML error: {getattr(error, 'problem', 'unknown')}" + (
        f" {context}" if context else ""
    )
    hint = "inside { } and [ ] put ${…} in quotes" if "${" in line else ""
    return _problem(codes.SYNTAX, file, place, got, "valid YAML", hint)
