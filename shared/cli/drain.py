"""``weirgate drain`` and ``undrain``: an endpoint or a gateway out of work, and back."""

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.remote import NotReachableError, call, myself, unreachable, word
from weirgate.shared.config.scalars import DURATION_FORM, parse_duration, to_ms
from weirgate.shared.polling import until

_POLL_SECONDS = 0.1
#: Streams are ended at the deadline. A gateway that hangs is killed 5 s later, and then a
#: successor may have to start.
#: A gateway node begins only when every edge must know.
_AFTER_DEADLINE_SECONDS = {"endpoint": 2.0, "gateway": 15.0, "node": 60.0}


def drain(
    target: str,
    admin: str,
    token: str,
    *,
    deadline: str | None,
    wait: bool,
    force: bool,
    replace: bool,
    as_json: bool,
) -> Exit:
    """Drain a target; return the exit code."""
    query = {"target": target, "by": myself(), "force": word(force), "replace": word(replace)}
    if deadline is not None:
        parsed = parse_duration(deadline)
        if parsed is None:
            typer.echo(f'weirgate: --deadline: got "{deadline}", wanted {DURATION_FORM}', err=True)
            return Exit.USAGE
        query["deadline_ms"] = str(to_ms(parsed))
    try:
        answer = call("POST", admin, f"/drain?{urlencode(query)}", token)
        if not wait or answer["result"] != "draining":
            return _said(answer, as_json=as_json)
        if not as_json:  # one document only: the last
            _said(answer, as_json=False)
        return asyncio.run(_wait(target, admin, token, answer, as_json=as_json))
    except NotReachableError as error:
        return unreachable(error)


def undrain(target: str, admin: str, token: str, *, as_json: bool) -> Exit:
    """Take a drain back; return the exit code."""
    query = urlencode({"target": target, "by": myself()})
    try:
        answer = call("POST", admin, f"/undrain?{query}", token)
    except NotReachableError as error:
        return unreachable(error)
    return _said(answer, as_json=as_json)


async def _wait(
    target: str, admin: str, token: str, order: dict[str, Any], *, as_json: bool
) -> Exit:
    """Ask until it has drained; without a deadline, for as long as that takes."""
    seconds = order["deadline_seconds"]
    kind = "endpoint" if "/" in target else "node" if target == "node" else "gateway"
    grace = _AFTER_DEADLINE_SECONDS[kind]
    seen: list[dict[str, Any]] = []

    async def over() -> bool:
        path = f"/drain?{urlencode({'target': target})}"
        # blocking: there is nothing else to do here
        seen[:] = call("GET", admin, path, token)["drains"]
        return all(entry["drained"] for entry in seen)

    try:
        async with asyncio.timeout(None if seconds is None else seconds + grace):
            await until(over, _POLL_SECONDS)
    except TimeoutError:
        left = sum(entry["left"] for entry in seen)
        return _ended(Exit.NOT_IN_TIME, target, f"not drained in time, {left} left", as_json)
    if seen:
        return _ended(Exit.OK, target, "drained", as_json)
    if order.get("replace"):  # fulfilled: the order ends when the fresh process is ready
        return _ended(Exit.OK, target, "replaced", as_json)
    return _ended(Exit.CONFIGURATION, target, "undrained meanwhile", as_json)


def _ended(code: Exit, target: str, result: str, as_json: bool) -> Exit:  # noqa: FBT001
    if as_json:
        typer.echo(json.dumps({"target": target, "result": result, "ok": code is Exit.OK}))
    else:
        typer.echo(f"{target}: {result}", err=code is not Exit.OK)
    return code


def _said(answer: dict[str, Any], *, as_json: bool) -> Exit:
    result = answer["result"]
    code = {"unknown": Exit.USAGE, "refused": Exit.CONFIGURATION}.get(result, Exit.OK)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif code is not Exit.OK:
        typer.echo(f"weirgate: {answer.get('error', result)}", err=True)
    else:
        text = {
            "finishing": "its process finishes, a fresh one takes its place",
            "unchanged": "was not drained",
        }
        typer.echo(f"{answer['target']}: {text.get(result, result)}")
    return code
