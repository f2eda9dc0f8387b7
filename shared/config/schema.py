"""The whole schema, and its JSON Schema."""

from datetime import timedelta
from typing import Any

from pydantic import Field, TypeAdapter

from weirgate.shared.config.base import KIND, Many, OneOrMany, Section
from weirgate.shared.config.discovery import Discovery
from weirgate.shared.config.gateway import Admin, Drain, Edge, Gateway, Logs, Node
from weirgate.shared.config.listeners import Listener, relayed_to
from weirgate.shared.config.pools import Pool
from weirgate.shared.config.routes import Route
from weirgate.shared.config.scalars import (
    AbsolutePath,
    FileName,
    Name,
    format_duration,
    format_size,
)


class Config(Section):
    """A configuration as it was written, with defaults filled in."""

    include: OneOrMany[FileName] = Field(
        default=(),
        description="Files or globs (`conf.d/*.yaml`), relative to this file. Listeners and pools "
        "are merged by name, routes are appended in the order of the file names; a name that is "
        "defined twice is an error.",
    )
    listeners: dict[Name, Listener] = Field(
        default={}, description="Addresses that the edge accepts on, by name. At least one."
    )
    pools: dict[Name, Pool] = Field(default={}, description="Sets of endpoints, by name.")
    routes: Many[Route] = Field(
        default=(), description="What happens to requests; the first match wins."
    )
    discovery: Discovery | None = Field(
        default=None,
        description="Labels of containers that add endpoints, pools and routes. Default: none do.",
    )
    node: Node = Field(default=Node(), description="Where this node is.")
    edge: Edge = Field(default=Edge(), description="The L4 tier.")
    gateway: Gateway = Field(default=Gateway(), description="The L7 tier.")
    logs: Logs = Field(default=Logs(), description="What is written down.")
    admin: Admin = Field(default=Admin(), description="The supervisor's API.")
    drain: Drain = Field(default=Drain(), description="How old work is finished.")
    run_directory: AbsolutePath | None = Field(
        default=None,
        description="For control sockets; made if missing. Default: chosen by the supervisor.",
    )


def relayed_only_pools(config: Config) -> set[str]:
    """Return the names of the pools that only tcp, tls and udp listeners use."""
    relayed = {pool for v in config.listeners.values() for _, pool in relayed_to(v)}
    return relayed - {route.pool for route in config.routes}


def route_name(config: Config, index: int) -> str:
    """Return a route's name, or the one that it gets by its place."""
    return config.routes[index].name or f"route-{index + 1}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors and other tools."""
    schema = Config.model_json_schema(by_alias=True)
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Weirgate configuration",
    }
    _tidy(document)
    return document


def _tidy(node: Any) -> None:
    """Write the schema the way files are written: units in defaults, and no null anywhere."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    if "default" in node:
        _tidy_default(node)
    if node.get("type") == "array" and "minLength" in node:
        node["minItems"] = node.pop("minLength")
    if node.get("type") == "array" and "maxLength" in node:
        node["maxItems"] = node.pop("maxLength")
    _drop_null(node)
    for value in node.values():
        _tidy(value)


def _tidy_default(node: dict[str, Any]) -> None:
    default = node["default"]
    if default is None or "$ref" in node:
        del node["default"]
    elif node.get(KIND) == "size":
        node["default"] = format_size(default)
    elif node.get(KIND) == "duration":
        node["default"] = format_duration(TypeAdapter(timedelta).validate_python(default))


def _drop_null(node: dict[str, Any]) -> None:
    choices = node.get("anyOf", ())
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if len(kept) == len(choices):
        return
    if len(kept) == 1:
        del node["anyOf"]
        node.update({**kept[0], **node})
    else:
        node["anyOf"] = kept
