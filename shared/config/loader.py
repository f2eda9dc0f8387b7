"""A file → a checked configuration, or everything that is wrong with it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.checks import check, warn
from weirgate.shared.config.nodes import Role
from weirgate.shared.config.problem import ConfigErrors, Problem
from weirgate.shared.config.rules import check_nulls, check_rules
from weirgate.shared.config.schema import Config
from weirgate.shared.config.secrets import read_secrets
from weirgate.shared.config.source import Source
from weirgate.shared.config.tree import Report, Tree
from weirgate.shared.config.validate import Validated, validate
from weirgate.shared.config.watched import Signature, WatchedFiles


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without errors.

    ``files`` are all that were read (the first is ``path``); ``tree`` knows where each value was
    written, and is not for printing: it has secrets in the clear.
    """

    config: Config
    warnings: list[Problem]
    files: list[Path]
    path: Path
    tree: Tree = field(repr=False, compare=False)
    role: Role = Role.BOTH
    #: These files, those of secrets and the directories of includes, as they were then.
    seen: Mapping[Path, Signature] = field(default_factory=dict, repr=False, compare=False)


def load(path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read, merge and check a configuration file and all that it includes.

    Args:
        path: The file; messages name it as it is given here.
        environ: Variables for ``${NAME}``; by default those of the process.

    Raises:
        ConfigErrors: With every problem that was found, in the order of files and lines.
    """
    watched = WatchedFiles()
    source = Source(os.environ if environ is None else environ, watched)
    tree = source.read(path)
    report = Report(tree)
    validated = _check(tree, report, source, watched)
    errors = source.problems + report.problems
    if errors or validated is None:
        raise ConfigErrors(_in_order(errors, source.files), watched.seen)
    warn(validated.config, report)
    warnings = _in_order(report.problems, source.files)
    return Loaded(validated.config, warnings, source.files, path, tree, seen=watched.seen)


def check_again(loaded: Loaded, tree: Tree) -> Loaded:
    """Check a tree that was made of a loaded configuration's.

    Raises:
        ConfigErrors: With every problem that was found.
    """
    report = Report(tree)
    validated = _judge(tree, report, complete=True)
    if report.problems or validated is None:
        raise ConfigErrors(report.problems)
    warn(validated.config, report)
    warnings = _in_order(report.problems, loaded.files)
    return replace(loaded, config=validated.config, warnings=warnings, tree=tree)


def _check(tree: Tree, report: Report, source: Source, watched: WatchedFiles) -> Validated | None:
    if not tree.data and not source.complete:
        return None
    read_secrets(tree, report, watched)
    if source.complete and tree.data.get("listeners", {}) == {}:
        hint = 'for example: listeners: {web: {bind: "0.0.0.0:80"}}'
        wanted = "at least one listener"
        report.add(codes.EMPTY, ("listeners",), got="no listener", wanted=wanted, hint=hint)
    return _judge(tree, report, complete=source.complete)


def _judge(tree: Tree, report: Report, *, complete: bool) -> Validated | None:
    check_nulls(tree, report)
    check_rules(tree, report, complete=complete)
    validated = validate(tree, report)
    if validated is not None:
        check(validated, report)
    return validated


def _in_order(problems: list[Problem], files: list[Path]) -> list[Problem]:
    order = {str(file): index for index, file in enumerate(files)}
    return sorted(problems, key=lambda p: (order.get(p.file, -1), p.line, p.column, p.code))
