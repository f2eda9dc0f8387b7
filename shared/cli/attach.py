"""``weirgate attach``: run a gateway for a node in another container of this host."""

from pathlib import Path

import typer

from weirgate.shared.attach.host import Host
from weirgate.shared.attach.messages import AttachError
from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.probes import answering
from weirgate.shared.observability import logs
from weirgate.shared.supervisor.listeners import explain


def run(path: Path, health: str) -> Exit:
    """Run until told to leave; return the exit code."""
    import uvloop

    logs.set_up("info")
    try:
        uvloop.run(_run(path, health))
    except AttachError as error:
        typer.echo(f"weirgate: {error}", err=True)
        return Exit.CANNOT_START
    except (OSError, ValueError) as error:
        what = (
            explain(health, error) if isinstance(error, OSError) else f"--health {health}: {error}"
        )
        typer.echo(f"weirgate: {what}", err=True)
        return Exit.CANNOT_START
    return Exit.OK


async def _run(path: Path, health: str) -> None:
    host = Host(path)

    def state() -> dict[str, bool]:
        return {"ready": host.attached and not host.leaving, "draining": host.leaving}

    async with answering(health, state):
        await host.run()
