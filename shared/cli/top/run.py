"""The loop of ``weirgate top``: look, draw, wait for a key."""

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import FrameType

import typer
from rich.console import Console
from rich.live import Live

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.remote import NotReachableError, call, read_text, unreachable
from weirgate.shared.cli.top.rates import SORTS, Look, View, compare, parse
from weirgate.shared.cli.top.screen import draw

_KEYS = {"r": "rate", "c": "connections", "e": "errors", "l": "latency", "n": "name"}
_END = {"q", "\x03", "\x04", ""}


def run(
    admin: str, token: str, *, interval_seconds: float, sort: str, once: bool, as_json: bool
) -> Exit:
    """Watch a node; return the exit code."""
    if sort not in SORTS:
        typer.echo(f"weirgate: --sort: one of {', '.join(SORTS)}", err=True)
        return Exit.USAGE
    if as_json and not once:
        typer.echo("weirgate: --json is for --once", err=True)
        return Exit.USAGE
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        typer.echo("weirgate: this is no terminal: use --once", err=True)
        return Exit.USAGE
    try:
        first = _look(admin, token)
        if once:
            _pause(interval_seconds)
            return _print(compare(first, _look(admin, token)), sort, as_json=as_json)
    except NotReachableError as error:
        return unreachable(error)
    return _watch(first, admin, token, interval_seconds, sort)


def _look(admin: str, token: str) -> Look:
    samples = parse(read_text(admin, "/metrics", token))
    return Look(call("GET", admin, "/status", token), samples)


def _print(view: View, sort: str, *, as_json: bool) -> Exit:
    if as_json:
        typer.echo(json.dumps(asdict(view), indent=2))
    else:
        Console(highlight=False).print(draw(view, sort))
    return Exit.OK


def _watch(before: Look, admin: str, token: str, interval_seconds: float, sort: str) -> Exit:
    console = Console(highlight=False)
    view, trouble = compare(before, before), ""
    due = time.monotonic() + interval_seconds
    with (
        contextlib.suppress(KeyboardInterrupt),
        interrupts() as interrupted,
        _keys_at_once(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not interrupted():
            live.update(draw(view, sort, console.size.height, trouble), refresh=True)
            key = _key(max(due - time.monotonic(), 0.0))
            if key in _END:
                break
            if key is not None:
                sort = _KEYS.get(key, sort)
                continue
            due = time.monotonic() + interval_seconds
            try:
                now = _look(admin, token)
            except NotReachableError:
                trouble = "no answer"  # it may be starting anew: look on
                continue
            view, before, trouble = compare(before, now), now, ""
    return Exit.OK


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Give what says whether ctrl-c was pressed.

    It raises KeyboardInterrupt, too; but inside a finalizer that is lost.
    """
    pressed = False

    def note(_: int, frame: FrameType | None) -> None:
        del frame
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _keys_at_once() -> Iterator[None]:
    """Get each key without Enter, and leave the terminal as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(seconds: float) -> str | None:
    """Return the next key, an empty text at the terminal's end, ``None`` when none came."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return None
    return os.read(sys.stdin.fileno(), 1).decode("latin-1")


def _pause(seconds: float) -> None:
    """Let the counters move: what is measured here is time itself."""
    select.select([], [], [], seconds)
