"""``weirgate up``, ``edge`` and ``gateway``: run a node in this process."""

import os
import secrets
from typing import TYPE_CHECKING

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.config import ConfigErrors, Role
from weirgate.shared.observability import logs
from weirgate.shared.supervisor.errors import StartError
from weirgate.shared.supervisor.plan import Planner

if TYPE_CHECKING:
    from pathlib import Path

    from weirgate.shared.supervisor.plan import Plan


def run(
    path: "Path", workers: int | None = None, role: Role = Role.BOTH, *, watch: bool = False
) -> Exit:
    """Run until told to end; return the exit code."""
    # made once: sticky cookies signed with it hold across reloads
    planner = Planner(path, dict(os.environ), secrets.token_hex(32), workers, role, watch=watch)
    try:
        plan = planner.plan()
    except ConfigErrors as error:
        for problem in error.problems:
            typer.echo(problem.render(), err=True)
        return Exit.CONFIGURATION
    logs.set_up(plan.settings.log_level)
    try:
        _run_node(planner, plan)
    except StartError as error:
        for line in str(error).splitlines():
            typer.echo(f"weirgate: {line}", err=True)
        return Exit.CANNOT_START
    return Exit.OK


def _run_node(planner: Planner, plan: "Plan") -> None:
    import uvloop

    from weirgate.shared.supervisor.node import Node

    async def node() -> None:
        await Node(planner, plan).run()

    uvloop.run(node())
