"""Verbs that speak to a running node's admin API."""

import getpass
import json
import os
import socket
from typing import Any

import httpx
import typer

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.errors import WeirgateError

_SECONDS = 5.0
#: A reload waits for names (2 s) and for every child to take the snapshot (10 s).
_RELOAD_SECONDS = 30.0
_MAX_NAME = 64


class NotReachableError(WeirgateError):
    """No node answers at the URL, or what answers is not one."""


def status(admin: str, token: str, *, as_json: bool) -> Exit:
    """Show the node; return the exit code."""
    try:
        document = call("GET", admin, "/status", token)
    except NotReachableError as error:
        return unreachable(error)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return Exit.OK

    from weirgate.shared.cli.tables import show

    show(document)
    return Exit.OK


def reload(admin: str, token: str, *, as_json: bool) -> Exit:
    """Have the node read its file again; return the exit code."""
    try:
        outcome = call("POST", admin, "/reload", token, seconds=_RELOAD_SECONDS)
    except NotReachableError as error:
        return unreachable(error)
    refused = outcome.get("result") == "refused"
    if as_json:
        typer.echo(json.dumps(outcome, indent=2))
    else:
        for line in [*outcome.get("warnings", []), *outcome.get("errors", [])]:
            typer.echo(line, err=True)
        typer.echo(f"{outcome.get('result')}: generation {outcome.get('generation')}", err=refused)
    return Exit.CONFIGURATION if refused else Exit.OK


def call(
    method: str, admin: str, path: str, token: str, *, seconds: float = _SECONDS
) -> dict[str, Any]:
    """Call the admin API; an answer with a ``result`` is one, whatever its status.

    Raises:
        NotReachableError: no node answers, or it refuses the caller.
    """
    response = _request(method, admin, path, token, seconds)
    try:
        document = response.json()
    except ValueError as error:
        raise NotReachableError(f"{admin}: the answer is not a node's") from error
    if not isinstance(document, dict):
        raise NotReachableError(f"{admin}: the answer is not a node's")
    if response.is_success or "result" in document:
        return document
    reason = document.get("error", f"status {response.status_code}")
    raise NotReachableError(f"{admin}: {reason}")


def read_text(admin: str, path: str, token: str) -> str:
    """Read a page that is no JSON.

    Raises:
        NotReachableError: no node answers, or it refuses the caller.
    """
    response = _request("GET", admin, path, token, _SECONDS)
    if not response.is_success:
        raise NotReachableError(f"{admin}: status {response.status_code}")
    return response.text


def _request(method: str, admin: str, path: str, token: str, seconds: float) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        return httpx.request(
            method,
            admin.rstrip("/") + path,
            headers=headers,
            timeout=seconds,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotReachableError(f"{admin}: {error}") from error


def unreachable(error: NotReachableError) -> Exit:
    """Say so; return the exit code."""
    typer.echo(f"weirgate: {error}", err=True)
    return Exit.NOT_REACHABLE


def myself() -> str:
    """Say who orders it, for the log and for ``status``."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_MAX_NAME]


def word(value: bool) -> str:  # noqa: FBT001
    """Write it as a query parameter."""
    return "true" if value else "false"
