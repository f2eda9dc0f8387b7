"""``weirgate check``: everything that is wrong with a configuration."""

import json
import os
from typing import TYPE_CHECKING

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.config import ConfigErrors
from weirgate.shared.supervisor.plan import Planner

if TYPE_CHECKING:
    from pathlib import Path

    from weirgate.shared.config import Problem

# Only the form counts: nothing that is compiled here ever runs.
_ANY_SECRET = "0" * 64


def run(path: "Path", *, as_json: bool) -> Exit:
    """Check a file; return the exit code."""
    problems: list[Problem]
    try:
        plan = Planner(path, dict(os.environ), _ANY_SECRET).plan()
    except ConfigErrors as error:
        problems, failed = error.problems, True
    else:
        problems, failed = list(plan.problems), False
    if as_json:
        document = {"ok": not failed, "problems": [problem.as_dict() for problem in problems]}
        typer.echo(json.dumps(document, indent=2))
    else:
        for problem in problems:
            typer.echo(problem.render(), err=True)
        typer.echo(_summary(path, problems), err=failed)
    return Exit.CONFIGURATION if failed else Exit.OK


def _summary(path: "Path", problems: "list[Problem]") -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    verdict = _count(errors, "error") if errors else "ok"
    return f"{path}: {verdict}" + (f", {_count(warnings, 'warning')}" if warnings else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
