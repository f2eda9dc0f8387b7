"""What ``GET /status`` and ``GET /snapshot`` show of a node."""

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weirgate.shared.control.client import ChildError
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.edges import sum_listeners
from weirgate.shared.supervisor.endpoints import Endpoint
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.listeners import Listeners, bound_address

_BLANK = "***"
_SECRET_KEYS = frozenset({"key_pem", "cookie_secret"})
_SECRET_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"}
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_COUNTS = (
    "connections",
    "requests_in_flight",
    "requests_total",
    "connect_failures",
    "early_closes",
)

Status = Mapping[str, Any]


async def child_statuses(children: Sequence[Child]) -> dict[str, Status]:
    """Ask every child at once; one that does not answer is left out."""
    answers = await asyncio.gather(*(_status(child) for child in children))
    return {c.name: answer for c, answer in zip(children, answers, strict=True) if answer}


def processes(fleet: Fleet, statuses: Mapping[str, Status]) -> list[dict[str, Any]]:
    """Describe each process."""
    slots = {slot["index"]: slot for slot in fleet.page.read()}
    return [
        _process(
            child,
            statuses.get(child.name, {}),
            slots[child.index] if child.tier == "gateway" else {},
        )
        for child in fleet.present
    ]


def listeners(
    snapshot: Mapping[str, Any], sockets: Listeners, edges: Sequence[Status]
) -> list[dict[str, Any]]:
    """Describe each listening socket, the edge processes' counts added up."""
    configured = {listener["name"]: listener for listener in snapshot["listeners"]}
    counts = sum_listeners(edges)
    shown = []
    for key, listening in sockets.sockets.items():
        listener = configured.get(key.name)
        if listener is None:  # a reload is under way
            continue
        count = counts.get((key.name, key.bind), {})
        shown.append(
            {
                "name": key.name,
                "bind": key.bind,
                "address": bound_address(listening),
                "protocol": listener["protocol"],
                "tls": listener["tls"] is not None,
                "pool": listener["pool"],
                "connections": count.get("connections"),
                "accepted_total": count.get("accepted_total"),
                "refused_total": count.get("refused_total"),
            }
        )
    return shown


def pools(
    snapshot: Mapping[str, Any], endpoints: Sequence[Endpoint], statuses: Mapping[str, Status]
) -> list[dict[str, Any]]:
    """Describe each pool and its endpoints, the data planes' counts added up."""
    seen: dict[str, list[Status]] = {}
    for status in statuses.values():
        for entry in status.get("endpoints", []):
            seen.setdefault(entry["id"], []).append(entry)
    by_pool: dict[str, list[dict[str, Any]]] = {}
    for endpoint in endpoints:
        entry = _endpoint(endpoint, seen.get(endpoint.id, []))
        by_pool.setdefault(endpoint.pool, []).append(entry)
    return [
        {
            "name": pool["name"],
            "balance": pool["balance"]["policy"],
            "endpoints": by_pool.get(pool["name"], []),
        }
        for pool in snapshot["pools"]
    ]


def redacted(snapshot: Mapping[str, Any]) -> bytes:
    """Return a snapshot as JSON without its secrets."""
    return json.dumps(_redact(snapshot), sort_keys=True, separators=(",", ":")).encode()


def _process(child: Child, status: Status, slot: Mapping[str, object]) -> dict[str, Any]:
    running = child.pid is not None
    return {
        "name": child.name,
        "tier": child.tier,
        "pid": child.pid,
        "state": _state(child, status),
        "drain": child.order.as_dict() if child.order else None,
        "restarts": child.restarts,
        "uptime_seconds": round(time.time() - child.started_at, 1) if running else None,
        "last_exit": child.last_exit or None,
        "generation": status.get("generation"),
        "connections": status.get("connections"),
        "requests_in_flight": status.get("requests_in_flight"),
        "requests_total": status.get("requests_total"),
        "handoffs_total": status.get("handoffs_total"),
        "latency_us": slot.get("latency_us"),
        "heartbeat_ms": slot.get("heartbeat_ms"),
        "host": child.attachment.name if child.attachment else None,
        # a number of another container's would be somebody else's here
        "resident_bytes": _resident_bytes(child.pid) if child.pid and not child.is_seat else None,
    }


def _state(child: Child, status: Status) -> str:
    if status.get("draining"):
        return "draining"
    return "standby" if status.get("standby") else child.state


def _endpoint(endpoint: Endpoint, seen: Sequence[Status]) -> dict[str, Any]:
    health = endpoint.health
    return {
        "id": endpoint.id,
        "address": endpoint.address,
        "addresses": list(endpoint.addresses or ()),
        "weight": endpoint.weight,
        "state": endpoint.state,
        "drain": endpoint.order.as_dict() if endpoint.order else None,
        "checked": endpoint.check is not None,
        "since": health.since or None,
        "last_error": endpoint.name_error or health.last_error or None,
        "checks_total": health.checks_total,
        "failures_total": health.failures_total,
        "load": dataclasses.asdict(endpoint.load) if endpoint.load else None,
        "ejected": sum(bool(entry["ejected"]) for entry in seen),
        **{count: sum(entry.get(count, 0) for entry in seen) for count in _COUNTS},
    }


async def _status(child: Child) -> Status | None:
    if child.state != "ready":
        return None
    try:
        return await child.client.status()
    except ChildError:
        return None


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


def _redact(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _BLANK if _is_secret(key) else _redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == 2 and isinstance(value[0], str) and value[0].lower() in _SECRET_HEADERS:
            return [value[0], _BLANK]
        return [_redact(item) for item in value]
    return value


def _is_secret(key: str) -> bool:
    return key in _SECRET_KEYS or key.lower() in _SECRET_HEADERS
