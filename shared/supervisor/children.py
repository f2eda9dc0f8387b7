"""Keeps one child process alive: spawn, wait until ready, watch, restart with backoff."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from weirgate.shared.control.client import ChildClient
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.backoff import Backoff
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.process import Process, describe_exit

log = logging.getLogger(__name__)

_READY_POLL_SECONDS = 0.01
#: A child that is not ready after this long is killed and started again.
_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What a child is started with; made anew for each start."""

    command: tuple[str, ...]
    bootstrap: bytes
    generation: int
    pass_fds: tuple[int, ...] = ()
    #: Closed in the supervisor once the child has its own copies.
    close_after: tuple[int, ...] = ()
    control_socket: str = ""


class Observer(Protocol):
    """Told of every turn in a child's life, before the next one is taken."""

    def child_starting(self, child: "Child") -> None:
        """A process is about to be spawned."""

    def child_ready(self, child: "Child") -> None:
        """A process serves."""

    def child_down(self, child: "Child") -> None:
        """A process has ended."""


class Running(Protocol):
    """A process that runs here, or in another container."""

    @property
    def pid(self) -> int:
        """The process id, where it runs."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, or nothing when the process has ended."""

    async def exited(self) -> int:
        """Wait for the end; return the exit status, negative for the signal that ended it."""


class Host(Running, Protocol):
    """Another container, which starts the process of a seat."""

    @property
    def name(self) -> str:
        """The container's name."""

    def start(self, launch: Launch) -> None:
        """Start the process, or raise ``OSError``."""

    def lost(self) -> None:
        """Let the host go."""


@dataclass(slots=True, eq=False)
class Child:
    """One child and all its successors.

    ``state`` is ``starting``, ``ready``, ``down``, ``drained`` (by an operator's order, and not
    started again), ``vacant`` (nobody is there to run it) or ``ended``; ``generation`` is the one
    that the running process is known to have.
    """

    name: str
    tier: str
    index: int
    control_socket: Path
    launch: Callable[["Child"], Launch]
    observer: Observer
    backoff: Backoff = field(default_factory=Backoff)
    state: str = "down"
    generation: int = 0
    restarts: int = 0
    #: Those of the restarts whose process was killed because it hung.
    hangs: int = 0
    failed_starts: int = 0
    incarnation: int = 0
    started_at: float = 0.0
    last_exit: str = ""
    #: Snapshots that it is being given, during which it may be deaf.
    snapshots_coming: int = 0
    #: It is to take over from another process, and is not started again where that fails.
    trial: bool = False
    #: An operator's drain.
    order: Order | None = None
    #: A seat for a gateway that another container runs: without one there is no process.
    is_seat: bool = False
    attachment: Host | None = None
    client: ChildClient = field(init=False)
    _process: Running | None = field(init=False, default=None)
    _hung: bool = field(init=False, default=False)
    #: The incarnation that was told to finish.
    _finishing: int = field(init=False, default=0)
    _ending: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    #: The order was taken back, or the end has begun.
    _wake: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.client = ChildClient(self.control_socket)

    @property
    def key(self) -> str:
        """What tells it from others of its name."""
        return self.control_socket.stem

    @property
    def pid(self) -> int | None:
        """The running process's id."""
        return self._process.pid if self._process else None

    @property
    def vacant(self) -> bool:
        """Whether it is a seat that nobody has taken."""
        return self.is_seat and self.attachment is None

    @property
    def held(self) -> bool:
        """Whether it is not started again: by an operator's order, or as there is nobody to."""
        return self.vacant or (self.order is not None and not self.order.replace)

    @property
    def takes_work(self) -> bool:
        """Whether new connections may go to it."""
        return self.state == "ready" and self.order is None

    async def keep_alive(self) -> None:
        """Run the process, and its successors, until ``end`` is called."""
        while not self._ending.is_set():
            if self.held:
                await self._stay_down()
                continue
            began = time.monotonic()
            await self._live()
            if self._ending.is_set() or self.trial:
                break
            self.restarts += 1
            self.hangs += self._hung
            if self.vacant:
                log.warning(
                    "a gateway has gone with its container", extra=fields(process=self.name)
                )
                continue
            if self.order is not None and self.order.incarnation == self.incarnation:
                log.info("child has drained", extra=fields(process=self.name, how=self.last_exit))
                continue
            delay = self.backoff.failed(time.monotonic() - began)
            log.error(
                "child ended, starting it again",
                extra=fields(process=self.name, how=self.last_exit, wait=f"{delay:g}s"),
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), delay)
        self.state = "ended"
        await self.client.close()

    def retire(self) -> None:
        """Start no successor when the process ends."""
        self._ending.set()
        self._wake.set()

    def release(self) -> None:
        """Take an operator's order back; a process that is finishing gets a successor."""
        if self.order is None:
            return
        if self._process is not None and self.order.incarnation == self.incarnation:
            self.order.replace = True
        else:
            self.order = None
        self._wake.set()

    def occupy(self, host: Host) -> None:
        """Let a host run the process of this seat; what others failed at is not its fault."""
        self.failed_starts, self.backoff = 0, Backoff()
        self.attachment = host
        self._wake.set()

    def vacate(self) -> None:
        """The host has gone, or is to go: whoever takes the seat next starts anew."""
        self.attachment = None
        self.order = None

    def obey(self, order: Order) -> None:
        """Take an operator's order, in the place of an earlier one."""
        self.order = order
        self._wake.set()

    def finish(self) -> None:
        """Let the process end when it has drained; told twice, it would end at once."""
        if self._finishing != self.incarnation:
            self._finishing = self.incarnation
            self._signal(signal.SIGTERM)

    def end(self) -> None:
        """End the process, and start no other."""
        self.retire()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def kill_hung(self, silent_seconds: float) -> None:
        """End a process that has given no sign of life for so long."""
        log.error(
            "child hangs, killing it",
            extra=fields(process=self.name, pid=self.pid, silent=f"{silent_seconds:.1f}s"),
        )
        self._hung = True
        self.kill()

    async def _stay_down(self) -> None:
        self.state = "vacant" if self.vacant else "drained"
        self.observer.child_down(self)
        self._wake.clear()
        await self._wake.wait()

    async def _live(self) -> None:
        """One process, from spawn to exit."""
        if not self._spawn():
            self.failed_starts += 1
            return
        assert self._process is not None  # noqa: S101 - _spawn has set it
        exited = asyncio.create_task(self._process.exited())
        try:
            await self._watch(exited)
        finally:
            if not exited.done():  # cancelled: the node is going down
                self.kill()
            status = await exited
            if self.state == "starting":
                self.failed_starts += 1
            self.last_exit = describe_exit(status) + (", it hung" if self._hung else "")
            self._process = None
            self.state = "down"
            self.observer.child_down(self)

    def _spawn(self) -> bool:
        self.state = "starting"
        self.observer.child_starting(self)
        self.incarnation += 1
        self._hung = False
        self.started_at = time.time()
        # a stale socket would make the successor look unreachable instead of absent
        self.control_socket.unlink(missing_ok=True)
        launch = self.launch(self)
        try:
            self._process = self._started(launch)
        except OSError as error:
            self.last_exit = f"cannot be started: {error}"
            self.state = "down"
            self.observer.child_down(self)
            return False
        finally:
            for fd in launch.close_after:
                os.close(fd)
        self.generation = launch.generation
        return True

    def _started(self, launch: Launch) -> Running:
        if not self.is_seat:
            return Process.start(launch.command, launch.bootstrap, launch.pass_fds)
        if self.attachment is None:
            raise OSError("its container has gone")
        self.attachment.start(launch)
        return self.attachment

    async def _watch(self, exited: "asyncio.Task[int]") -> None:
        becoming = asyncio.create_task(self._become_ready())
        try:
            await asyncio.wait({exited, becoming}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done() and not becoming.result():
                log.error("child is not ready, killing it", extra=fields(process=self.name))
                self.kill()
        finally:
            becoming.cancel()
            await asyncio.gather(becoming, return_exceptions=True)
        await asyncio.shield(exited)

    async def _become_ready(self) -> bool:
        deadline = time.monotonic() + _READY_SECONDS
        while not await self.client.ready():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_READY_POLL_SECONDS)
        self.state = "ready"
        self.failed_starts = 0
        if (
            self.order is not None
            and self.order.replace
            and self.order.incarnation != self.incarnation
        ):
            self.order = None
        self.observer.child_ready(self)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)


async def end_all(
    children: list[Child], keepers: "list[asyncio.Task[None]]", grace_seconds: float
) -> None:
    """End all children; one that has not ended in time is killed."""
    for child in children:
        child.end()
    _, late = await asyncio.wait(keepers, timeout=grace_seconds)
    if late:
        for child in children:
            child.kill()
        await asyncio.wait(late)
