"""The snapshot in force, and how running children are given one."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weirgate.shared.control.client import ChildRefusedError, ChildUnreachableError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InForce:
    """The snapshot that every data plane should have."""

    data: bytes
    hash: str
    value: Mapping[str, Any]
    generation: int


async def put_in_all(children: Iterable[Child], snapshot: InForce) -> dict[str, str]:
    """Put a snapshot in force in every child that is ready; return refusals by child."""
    running = [child for child in children if child.state == "ready"]
    answers = await asyncio.gather(*(_put(child, snapshot) for child in running))
    return {child.name: text for child, text in zip(running, answers, strict=True) if text}


async def catch_up(children: Iterable[Child], wanted: InForce) -> None:
    """Give the snapshot in force to children that started while it changed."""
    for child in children:
        if child.state == "ready" and child.generation != wanted.generation:
            refusal = await _put(child, wanted)
            if refusal:
                log.error(
                    "child refuses the snapshot in force, starting it again",
                    extra=fields(process=child.name, error=refusal),
                )
                child.kill()


async def _put(child: Child, snapshot: InForce) -> str:
    """Put a snapshot in force in one child; return why not."""
    child.snapshots_coming += 1
    try:
        await child.client.put_snapshot(snapshot.data, snapshot.generation)
    except ChildRefusedError as error:
        return str(error)
    except ChildUnreachableError as error:
        if child.state != "ready":  # it ended meanwhile; its successor gets what is in force
            return ""
        # nobody knows which snapshot it has: its successor will have the one in force
        child.kill()
        return f"no answer, starting it again: {error}"
    finally:
        child.snapshots_coming -= 1
    child.generation = snapshot.generation
    return ""
