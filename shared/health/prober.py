"""When each endpoint is checked: one task per endpoint, one prober per node."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

from weirgate.shared.health.check import Target
from weirgate.shared.health.exhaustion import ExhaustedError, Word
from weirgate.shared.health.probe import probe
from weirgate.shared.health.result import Result

#: Checks of gateway nodes at once.
_NODES = 256

Addresses = Callable[[str], Sequence[str]]
Record = Callable[[Target, Result], None]


class Prober:
    """Checks every target at its interval, with jitter so that checks do not march in step.

    At most ``concurrency`` checks are under way at once, which also spreads the first round;
    besides, those of gateway nodes.
    """

    def __init__(
        self,
        addresses: Addresses,
        record: Record,
        *,
        spread: random.Random | None = None,
        concurrency: int = 64,
    ) -> None:
        self._addresses = addresses
        self._record = record
        self._spread = spread or random.Random()  # noqa: S311 - jitter, not a secret
        self._slots = asyncio.Semaphore(concurrency)
        self._word = Word()
        # endpoints that hang must not hold up what tells of a dead gateway node
        self._node_slots = asyncio.Semaphore(_NODES)
        self._tasks: dict[Target, asyncio.Task[None]] = {}

    def update(self, targets: Iterable[Target]) -> None:
        """Check these targets from now on; one that did not change keeps its rhythm."""
        wanted = set(targets)
        for target in self._tasks.keys() - wanted:
            self._tasks.pop(target).cancel()
        for target in wanted - self._tasks.keys():
            self._tasks[target] = asyncio.create_task(
                self._keep_checking(target), name=f"check {target.address}"
            )

    async def close(self) -> None:
        """Stop all checks."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_checking(self, target: Target) -> None:
        while True:
            slots = self._node_slots if target.check.kind == "gateway" else self._slots
            async with slots:
                result = await self._check(target)
            if result is not None:
                self._record(target, result)
            await asyncio.sleep(self._pause(target))

    async def _check(self, target: Target) -> Result | None:
        """Check once; None = this host could not, which says nothing of the endpoint."""
        try:
            result = await probe(target, self._addresses(target.endpoint_id))
        except ExhaustedError as error:
            self._word.exhausted(error)
            return None
        except Exception as error:  # noqa: BLE001 - a bug met by one endpoint must not stop its checks
            return Result(f"the check itself failed: {type(error).__name__}: {error}")
        self._word.made()
        return result

    def _pause(self, target: Target) -> float:
        check = target.check
        return check.interval * (1 + check.jitter * self._spread.uniform(-1, 1))
