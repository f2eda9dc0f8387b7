"""``weirgate version``: what is installed, and whether its two halves belong together."""

import json
import platform
from importlib import metadata

import typer

from weirgate.shared import native
from weirgate.shared.cli.exit_codes import Exit


def run(*, as_json: bool) -> Exit:
    """Print the version; return the exit code."""
    package = metadata.version("weirgate")
    if as_json:
        document = {
            "version": package,
            "native": native.__version__,
            "python": platform.python_version(),
        }
        typer.echo(json.dumps(document))
    else:
        typer.echo(f"weirgate {package}")
    if package != native.__version__:
        typer.echo(f"weirgate: the extension is {native.__version__}: build it again", err=True)
        return Exit.CANNOT_START
    return Exit.OK
