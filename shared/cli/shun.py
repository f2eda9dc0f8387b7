"""``weirgate shun``: sources that the edge refuses for a while."""

import json
import math
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import typer

from weirgate.shared.addresses import PREFIX_FORM, Prefix, parse_prefix
from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.remote import NotReachableError, call, myself, unreachable, word
from weirgate.shared.config.scalars import (
    DURATION_FORM,
    format_duration,
    parse_duration,
    to_ms,
)

_LATER = ", once the edge answers"


def add(
    source: str, admin: str, token: str, *, ttl: str, reason: str, force: bool, as_json: bool
) -> Exit:
    """Shun a source; return the exit code."""
    prefix, lasting = _prefix(source), parse_duration(ttl)
    if not lasting:
        typer.echo(f'weirgate: --ttl: got "{ttl}", wanted {DURATION_FORM}, above 0', err=True)
    if prefix is None or not lasting:
        return Exit.USAGE
    query = {
        "source": str(prefix),
        "ttl_ms": str(to_ms(lasting)),
        "reason": reason,
        "by": myself(),
        "force": word(force),
    }
    return _change("POST", query, admin, token, f"for {format_duration(lasting)}", as_json=as_json)


def remove(source: str, admin: str, token: str, *, as_json: bool) -> Exit:
    """Take a source back; return the exit code."""
    prefix = _prefix(source)
    if prefix is None:
        return Exit.USAGE
    query = {"source": str(prefix), "by": myself()}
    return _change("DELETE", query, admin, token, as_json=as_json)


def show(admin: str, token: str, *, as_json: bool) -> Exit:
    """Print who is shunned; return the exit code."""
    try:
        document = call("GET", admin, "/shun", token)
    except NotReachableError as error:
        return unreachable(error)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return Exit.OK
    rows = [("source", "left", "by", "reason"), *map(_row, document["shuns"])]
    # not a table of rich's: that would cut long lines, and this is for grep, too
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    return Exit.OK


def _row(shun: dict[str, Any]) -> tuple[str, str, str, str]:
    left = timedelta(seconds=math.ceil(shun["seconds_left"]))
    return shun["source"], str(left), shun["by"], shun["reason"]


def _change(
    method: str, query: dict[str, str], admin: str, token: str, lasting: str = "", *, as_json: bool
) -> Exit:
    try:
        answer = call(method, admin, f"/shun?{urlencode(query)}", token)
    except NotReachableError as error:
        return unreachable(error)
    result = answer["result"]
    code = Exit.CONFIGURATION if result == "refused" else Exit.OK
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif code is not Exit.OK:
        typer.echo(f"weirgate: {answer.get('error', result)}", err=True)
    else:
        later = "" if answer.get("in_force", True) else _LATER
        text = {"shunned": f"shunned {lasting}", "removed": "no longer shunned"}
        typer.echo(f"{answer['source']}: {text.get(result, 'was not shunned')}{later}")
    return code


def _prefix(source: str) -> Prefix | None:
    """Read the source, or say what is wrong with it."""
    prefix = parse_prefix(source)
    if prefix is None:
        typer.echo(f'weirgate: got "{source}", wanted {PREFIX_FORM}', err=True)
    return prefix
