"""What labels may not say: they are a weaker authority than the file."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import yaml

from weirgate.shared.config.base import KIND, Section
from weirgate.shared.config.document import scalar
from weirgate.shared.config.pools import Pool
from weirgate.shared.config.routes import Route
from weirgate.shared.config.schema import Config

#: Kinds of values that make Weirgate open a file, or that are secret; a "path" is one of a URL.
_OF_THE_HOST = frozenset({"file", "secret", "CIDR or file:path"})
_FILE = "file:"
#: The only values that are no scalars: "with all defaults".
_EMPTY: dict[str, Any] = {"{}": {}, "[]": []}
_NO_FILE = "no file: labels must not make Weirgate read files of its host"


class Denial(NamedTuple):
    """What stands there, and what is wanted instead."""

    got: str
    wanted: str


def denied(word: str, path: Sequence[str], text: str) -> Denial | None:
    """Say what is forbidden in a label, or ``None``."""
    if word in Config.model_fields and (path or word != "gateway"):
        return Denial(f"the section {word}", "pools, routes and gateway nodes only")
    keys = tuple(path[1:] if word == "route" else path)
    if word == "pool" and keys[:1] == ("endpoints",):
        return Denial("endpoints", "none: the object itself is the endpoint")
    if word == "route" and keys[:1] == ("name",):
        return Denial("the key name", "the name behind route. alone")
    plain = tuple(key for key in keys if not key.isdigit())
    if plain and any(plain[: len(file)] == file for file in files_of(word)):
        return Denial("a file", _NO_FILE)
    # as it stands, and as it is read: quotes and escapes hide nothing
    if any(str(t).strip(" \t\r\n'\"").startswith(_FILE) for t in (text, _read(text))):
        return Denial(f'a value with "{_FILE}" in front', _NO_FILE)
    if any("${" in str(t).replace("$${", "") for t in (text, _read(text))):
        wanted = "the value itself: the environment is not looked up for labels ($${ is a ${)"
        return Denial("a value with ${…}", wanted)
    return None


def _read(text: str) -> Any:
    try:
        return value_of(text)
    except ValueError:
        return text


def value_of(text: str) -> Any:
    """Return the value of a label as the file would read it: a scalar, or ``{}`` or ``[]``.

    Raises:
        ValueError: A number with more digits than Python converts.
    """
    if text in _EMPTY:
        return _EMPTY[text].copy()
    if text[:1] not in {"'", '"'}:
        return scalar(text)
    try:
        value = yaml.safe_load(text)
        str(value).encode()  # an escaped half of a surrogate pair is no text
    except (yaml.YAMLError, UnicodeEncodeError):
        return text
    return value if isinstance(value, str) else text


@cache
def files_of(word: str) -> frozenset[tuple[str, ...]]:
    """Return the keys in pools, or in routes, that name files or hold secrets."""
    models: dict[str, type[Section]] = {"pool": Pool, "route": Route}
    if word not in models:
        return frozenset()
    schema = models[word].model_json_schema()
    return frozenset(_walk((), schema, schema.get("$defs", {})))


def _walk(
    path: tuple[str, ...], node: dict[str, Any], defs: dict[str, Any]
) -> Iterator[tuple[str, ...]]:
    if node.get(KIND) in _OF_THE_HOST:
        yield path
        return
    if "$ref" in node:
        yield from _walk(path, defs[node["$ref"].removeprefix("#/$defs/")], defs)
    for choice in node.get("anyOf", ()):
        yield from _walk(path, choice, defs)
    for key, child in node.get("properties", {}).items():
        yield from _walk((*path, key), child, defs)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _walk(path, node[key], defs)
