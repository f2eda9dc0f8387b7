"""Proof that traffic flows: one real connection to a listener of each kind, seen to arrive."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weirgate.shared.addresses import UNIX, join_address, split_address
from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.polling import until
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.listeners import Listeners, bound_address

log = logging.getLogger(__name__)

_TRY_SECONDS = 2.0
_POLL_SECONDS = 0.005
_RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket to knock at."""

    name: str
    bind: str
    protocol: str
    address: str


def doors(snapshot: Mapping[str, Any], listeners: Listeners) -> list[Door]:
    """Choose one socket of each protocol, leaving out those that refuse this host.

    UDP is left out too: nothing can be sent that is sure to disturb no application.
    """
    chosen: dict[str, Door] = {}
    configured = {listener["name"]: listener for listener in snapshot["listeners"]}
    for key, listening in listeners.sockets.items():
        listener = configured[key.name]
        if listener["protocol"] == "udp":
            continue
        address = _reachable(bound_address(listening))
        if listener["protocol"] not in chosen and _admits(listener, address):
            chosen[listener["protocol"]] = Door(key.name, key.bind, listener["protocol"], address)
    return list(chosen.values())


async def traffic_flows(fleet: Fleet, knock_at: Iterable[Door]) -> None:
    """Return once a connection to each of the doors has arrived."""
    for door in knock_at:
        while not await _arrives(fleet, door):
            log.warning(
                "a connection does not arrive, trying again",
                extra=fields(listener=door.name, address=door.address),
            )
            await asyncio.sleep(_RETRY_SECONDS)


async def _arrives(fleet: Fleet, door: Door) -> bool:
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            before = await _accepted(fleet, door)
            with await _knock(door.address):
                await until(lambda: _seen(fleet, door, before), _POLL_SECONDS)
    except (OSError, ChildError):  # TimeoutError is an OSError
        return False
    return True


async def _knock(address: str) -> socket.socket:
    """Connect with a bare socket: the far side may well hang up at once, and has then seen it."""
    target: Any = address.removeprefix(UNIX)
    family = socket.AF_UNIX
    if not address.startswith(UNIX):
        target = split_address(address)
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    caller = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(caller, target)
    except ConnectionResetError:
        pass
    except BaseException:
        caller.close()
        raise
    return caller


async def _seen(fleet: Fleet, door: Door, before: int) -> bool:
    if await _accepted(fleet, door) <= before:
        return False
    if door.protocol != "http":
        return True
    ready = [gateway for gateway in fleet.gateways if gateway.state == "ready"]
    statuses = await asyncio.gather(*(gateway.client.status() for gateway in ready))
    return any(status["connections"] > 0 for status in statuses)


async def _accepted(fleet: Fleet, door: Door) -> int:
    ready = [edge for edge in fleet.edges if edge.state == "ready"]
    statuses = await asyncio.gather(*(edge.client.status() for edge in ready))
    return sum(
        listener["accepted_total"]
        for status in statuses
        for listener in status["listeners"]
        if listener["name"] == door.name and listener["bind"] == door.bind
    )


def _reachable(address: str) -> str:
    """Replace a wildcard by the loopback address of its family."""
    if address.startswith(UNIX):
        return address
    host, port = split_address(address)
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return join_address(loopback, port)


def _admits(listener: Mapping[str, Any], address: str) -> bool:
    """Say whether a listener admits a connection from the address it listens on itself."""
    if address.startswith(UNIX):
        return not listener["allow"]
    source = ipaddress.ip_address(split_address(address)[0])
    if any(source in ipaddress.ip_network(network) for network in listener["deny"]):
        return False
    allow = listener["allow"]
    return not allow or any(source in ipaddress.ip_network(network) for network in allow)
