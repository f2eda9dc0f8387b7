"""The check of a gateway on another host: does it serve, how busy is it, and can it be reached."""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weirgate.shared.addresses import split_address
from weirgate.shared.health.exhaustion import ExhaustedError, is_ours
from weirgate.shared.health.response import BadResponseError, ResponseReader
from weirgate.shared.health.result import NodeLoad, Result

if TYPE_CHECKING:
    from weirgate.shared.health.check import Target

#: What a gateway node's load listener answers.
PATH = "/load"
_READ_BYTES = 16 * 1024
#: Said by this host at once, without a packet: no word of what open connections would meet.
_LOCAL = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EPERM, errno.EACCES})
#: A timeout that is noticed so much too late says that this process did not run meanwhile.
_LATE_SECONDS = 0.25


async def probe_node(target: "Target", addresses: Sequence[str]) -> Result:
    """Check a gateway node at its addresses in order; the first that passes decides.

    All addresses share the one timeout.
    """
    if not addresses:
        return Result("the endpoint has no address")
    asked = asyncio.get_running_loop().time()
    last = Result()
    with contextlib.ExitStack() as sockets:
        knocked: list[socket.socket] = []
        try:
            async with asyncio.timeout(target.check.timeout):
                for address in addresses:
                    last = await _probe_address(target, address, sockets, knocked)
                    if last.passed:
                        break
        except TimeoutError:
            late = asyncio.get_running_loop().time() - asked - target.check.timeout
            return Result(
                f"no answer within {target.check.timeout:g} s",
                unreachable=not any(map(_is_connected, knocked)),
                inconclusive=late > _LATE_SECONDS,
            )
    return last


async def _probe_address(
    target: "Target",
    address: str,
    sockets: contextlib.ExitStack,
    knocked: list[socket.socket],
) -> Result:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    loop = asyncio.get_running_loop()
    connected = False
    try:
        caller = sockets.enter_context(
            socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        )
        knocked.append(caller)
        await loop.sock_connect(caller, (host, target.check.port or port))
        connected = True
        request = f"GET {PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(caller, request.encode())
        answer = ResponseReader(want_body=True)
        while not answer.done:
            data = await loop.sock_recv(caller, _READ_BYTES)
            if data:
                answer.feed(data)
            else:
                answer.end()
    except OSError as error:
        if isinstance(error, ConnectionRefusedError):
            return Result("connection refused")
        if is_ours(error, address):
            raise ExhaustedError(error.strerror or str(error)) from error
        text = error.strerror or str(error) or type(error).__name__
        return Result(text, unreachable=not connected and error.errno not in _LOCAL)
    except BadResponseError as error:
        return Result(str(error))
    return _judge(answer.status, answer.body)


def _is_connected(caller: socket.socket) -> bool:
    """Ask the kernel: it shakes hands, even while this process has no time to notice."""
    try:
        caller.getpeername()
    except OSError:
        return False
    return True


def _judge(status: int, body: bytes) -> Result:
    try:
        document = json.loads(body)
    except ValueError:
        return Result(f"status {status}, and no JSON")
    state = document.get("state") if isinstance(document, dict) else None
    load = _load(document) if state in {"ready", "draining"} else None
    if load is None:
        return Result(f"status {status}, state {str(state)[:40]}")
    return Result(load=load, draining=state == "draining")


def _load(document: dict[str, Any]) -> NodeLoad | None:
    """Read the figures; whole numbers that a data plane can hold, or nothing."""
    figures: list[int] = []
    for name in NodeLoad.__slots__:
        figure = document.get(name)
        if type(figure) is not int or not 0 <= figure < 2**32:
            return None
        figures.append(figure)
    return NodeLoad(*figures)
