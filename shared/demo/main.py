"""``weirgate demo``: start the site, show what there is to try, or check it all."""

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text

from weirgate.shared.demo.site import DemoError, Ports, Site, run_site
from weirgate.shared.demo.tour import CheckFailedError, tour, visitor

_NARROWEST = 100  # a command that is cut in two cannot be copied


async def run(*, check: bool, seconds: float = 0.0, port_base: int = 8080) -> int:
    """Run the demo.

    Args:
        check: Try every row, print what was seen, and end.
        seconds: End after so long; 0 = when told to by Ctrl-C or SIGTERM.
        port_base: The first port; the others keep their usual distance from it.

    Returns:
        The exit code: 0, or 1 when something did not start or a check failed.
    """
    console = Console()
    console.width = max(console.width, _NARROWEST)
    stop = _stop_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="weirgate-demo-") as directory:
            async with run_site(Ports.from_base(port_base), Path(directory)) as site:
                if check:
                    return await _check(site, console)
                _show(site, console)
                return await _wait(site, stop, seconds, console)
    except DemoError as error:
        console.print(f"demo: {error}", style="red", markup=False, highlight=False)
        return 1


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _show(site: Site, console: Console) -> None:
    rows = tour(site)
    width = max(len(row.shows) for row in rows)
    console.print("One edge and two gateways in front of five small applications.\n", style="bold")
    for row in rows:  # no table: it would cut off commands where the terminal is narrow
        line = Text.assemble((f"{row.shows:{width}}  ", "bold"), row.command)
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"\nconfiguration  {site.directory / 'weirgate.yaml'}", soft_wrap=True)
    console.print(f"access log     {site.directory / 'access.log'}", soft_wrap=True)
    console.print("\nCtrl-C ends the demo and removes all of it.")


async def _wait(site: Site, stop: asyncio.Event, seconds: float, console: Console) -> int:
    """Wait for the end that was asked for; Weirgate ending by itself is a failure."""
    asked = asyncio.create_task(stop.wait())
    ended = asyncio.create_task(site.weirgate.wait())
    done, pending = await asyncio.wait(
        {asked, ended}, timeout=seconds or None, return_when=asyncio.FIRST_COMPLETED
    )
    for task in pending:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*pending)
    if ended in done:
        console.print(f"weirgate ended:\n{site.log()}", style="red", markup=False)
        return 1
    console.print("stopping")
    return 0


async def _check(site: Site, console: Console) -> int:
    failures = 0
    async with visitor(site) as guest:
        for row in tour(site):
            try:
                mark, text = "ok    ", await row.check(guest)
            except (CheckFailedError, httpx.HTTPError, OSError, TimeoutError) as error:
                mark, text = "FAILED", str(error) or type(error).__name__
                failures += 1
            line = f"{mark} {row.shows:28} {text}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if failures:
        console.print(site.log()[-3000:], markup=False, highlight=False)
    return 1 if failures else 0
