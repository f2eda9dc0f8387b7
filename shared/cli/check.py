"""``weirgate check``: everything that is wrong with a configuration."""

import json
import os
from typing import TYPE_CHECKING

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.config import ConfigErrors, Role, load
from weirgate.shared.supervisor.plan import Planner

if TYPE_CHECKING:
    from pathlib import Path

    from weirgate.shared.config import Problem

# Only the form counts: nothing that is compiled here ever runs.
_ANY_SECRET = "0" * 64


def run(path: "Path", role: str = "", *, as_json: bool) -> Exit:
    """Check a file; return the exit code."""
    known = [each.value for each in Role]
    if role and role not in known:
        typer.echo(f'weirgate: --role: got "{role}", wanted {" or ".join(known)}', err=True)
        return Exit.USAGE
    problems, failed = _problems(path, Role(role) if role else None)
    if as_json:
        document = {"ok": not failed, "problems": [problem.as_dict() for problem in problems]}
        typer.echo(json.dumps(document, indent=2))
    else:
        for problem in problems:
            typer.echo(problem.render(), err=True)
        typer.echo(_summary(path, problems), err=failed)
    return Exit.CONFIGURATION if failed else Exit.OK


def _problems(path: "Path", role: Role | None) -> "tuple[list[Problem], bool]":
    """Return what is wrong in this role, or in each that the file has, each thing once."""
    environ = dict(os.environ)
    found: dict[Problem, None] = {}
    failed = False
    for each in (role,) if role else _roles(path, environ):
        try:
            plan = Planner(path, environ, _ANY_SECRET, role=each).plan()
        except ConfigErrors as error:
            found |= dict.fromkeys(error.problems)
            failed = True
        else:
            found |= dict.fromkeys(plan.problems)
    return list(found), failed


def _roles(path: "Path", environ: dict[str, str]) -> "tuple[Role, ...]":
    try:
        split = load(path, environ).config.gateway.nodes is not None
    except ConfigErrors:  # every role would find the same
        split = False
    return tuple(Role) if split else (Role.BOTH,)


def _summary(path: "Path", problems: "list[Problem]") -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    verdict = _count(errors, "error") if errors else "ok"
    return f"{path}: {verdict}" + (f", {_count(warnings, 'warning')}" if warnings else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
