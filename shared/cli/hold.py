"""``weirgate hold``: keep the listening sockets of a node in another container."""

from pathlib import Path

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.probes import answering
from weirgate.shared.hold.holder import Holder
from weirgate.shared.observability import logs


def run(path: Path, health: str) -> Exit:
    """Run until told to end; return the exit code."""
    import asyncio

    async def hold() -> None:
        async with answering(health, lambda: {"ready": True, "draining": False}):
            await Holder(path).run()

    logs.set_up("info")
    try:
        asyncio.run(hold())
    except (OSError, ValueError) as error:
        typer.echo(f"weirgate: {path}: {error}", err=True)
        return Exit.CANNOT_START
    return Exit.OK
