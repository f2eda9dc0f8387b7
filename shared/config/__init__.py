"""Configuration: YAML files → one checked model → the snapshot that the data planes run.

The modules stand in this order: ``document`` (YAML with places) and ``source`` (includes) read,
``schema`` and its sections (``listeners``, ``pools``, ``routes`` with ``match``, ``gateway``) are
the model, ``rules``, ``validate`` and ``checks`` find what is wrong, ``loader`` runs them, and
``compiler`` writes the snapshot, with ``compile_listeners``, ``compile_pools`` and
``compile_routes``. ``labels`` and ``discovered`` put into it what objects such as containers say of
themselves. ``codes`` lists every kind of mistake.
"""

from weirgate.shared.config.compiler import Snapshot, compile_snapshot
from weirgate.shared.config.findings import problems_from_native
from weirgate.shared.config.loader import Loaded, load
from weirgate.shared.config.nodes import Role, node_names
from weirgate.shared.config.pages import reference_markdown
from weirgate.shared.config.problem import ConfigErrors, Problem
from weirgate.shared.config.roles import in_role
from weirgate.shared.config.scalars import ByteSize, Duration, Rate
from weirgate.shared.config.schema import Config, json_schema

__all__ = [
    "ByteSize",
    "Config",
    "ConfigErrors",
    "Duration",
    "Loaded",
    "Problem",
    "Rate",
    "Role",
    "Snapshot",
    "compile_snapshot",
    "in_role",
    "json_schema",
    "load",
    "node_names",
    "problems_from_native",
    "reference_markdown",
]
