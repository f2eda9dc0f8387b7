"""``weirgate upgrade``: fresh processes in the place of running ones."""

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import typer

from weirgate.shared.cli.drain import drain
from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.remote import NotReachableError, call, myself, unreachable
from weirgate.shared.config.scalars import DURATION_FORM, parse_duration, to_ms
from weirgate.shared.polling import until

EDGE = "edge"
#: The fresh process may take 30 s to get ready, and the old one 15 s to give way.
_UPGRADE_SECONDS = 60.0
_POLL_SECONDS = 0.1
#: Streams are ended at the deadline; a process that hangs is killed 5 s later.
_AFTER_DEADLINE_SECONDS = 10.0


def upgrade(
    target: str, admin: str, token: str, *, deadline: str | None, wait: bool, as_json: bool
) -> Exit:
    """Upgrade the edge or a gateway; return the exit code."""
    if target != EDGE:  # a gateway is drained first: the others take what comes meanwhile
        return drain(
            target, admin, token,
            deadline=deadline, wait=wait, force=False, replace=True, as_json=as_json,
        )  # fmt: skip
    query = {"target": target, "by": myself()}
    if deadline is not None:
        parsed = parse_duration(deadline)
        if parsed is None:
            typer.echo(f'weirgate: --deadline: got "{deadline}", wanted {DURATION_FORM}', err=True)
            return Exit.USAGE
        query["deadline_ms"] = str(to_ms(parsed))
    try:
        path = f"/upgrade?{urlencode(query)}"
        answer = call("POST", admin, path, token, seconds=_UPGRADE_SECONDS)
        if answer["result"] != "upgraded":
            return _refused(answer, as_json=as_json)
        if not wait:
            return _upgraded(answer, as_json=as_json)
        return asyncio.run(_wait(admin, token, answer, as_json=as_json))
    except NotReachableError as error:
        return unreachable(error)


async def _wait(admin: str, token: str, answer: dict[str, Any], *, as_json: bool) -> Exit:
    """Ask until the old processes have ended."""
    old = {process["old_pid"] for process in answer["processes"]}

    async def over() -> bool:
        # blocking: there is nothing else to do here
        found = call("GET", admin, "/status", token)["processes"]
        return not old & {process["pid"] for process in found}

    try:
        async with asyncio.timeout(answer["deadline_seconds"] + _AFTER_DEADLINE_SECONDS):
            await until(over, _POLL_SECONDS)
    except TimeoutError:
        typer.echo("weirgate: upgraded, but the old process has not ended in time", err=True)
        return Exit.NOT_IN_TIME
    return _upgraded(answer, as_json=as_json)


def _upgraded(answer: dict[str, Any], *, as_json: bool) -> Exit:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        for process in answer["processes"]:
            typer.echo(f"{process['name']}: upgraded, pid {process['old_pid']} → {process['pid']}")
    return Exit.OK


def _refused(answer: dict[str, Any], *, as_json: bool) -> Exit:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"weirgate: {answer.get('error', answer['result'])}", err=True)
    return Exit.CONFIGURATION
