"""The node's child processes together: what they share, and what is said to all of them.

Of each edge worker there are two processes for a while when it is upgraded (``upgrade.py``).
"""

import asyncio
import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from weirgate.shared import native
from weirgate.shared.control.boot import SUCCESSION_KEY
from weirgate.shared.control.client import ChildError, ChildRefusedError, ChildUnreachableError
from weirgate.shared.observability.logs import fields
from weirgate.shared.polling import until
from weirgate.shared.supervisor.children import Child, Launch, end_all
from weirgate.shared.supervisor.edges import Board, Seat
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.finishing import finish
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.watch import Watch

log = logging.getLogger(__name__)

_MODULES = {"edge": "weirgate.edge.process", "gateway": "weirgate.appgw.process"}
_HANDOFF_BUFFER_BYTES = 1024 * 1024
_CHANNEL_SECONDS = 5.0
#: The old edge gives up after 10 s at most, and then serves on.
_SUCCESSION_SECONDS = 15.0
_DRAINED_POLL_SECONDS = 0.02
_PUSH_PAUSE_SECONDS = 0.01
_PUSH_RETRY_SECONDS = 0.5


class Page(Protocol):
    """The supervisor's view of the load page."""

    @property
    def fd(self) -> int:
        """The memfd."""

    def set_state(self, index: int, state: str) -> None:
        """Set a gateway's state."""

    def read(self) -> list[dict[str, object]]:
        """Return every slot."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The snapshot that every data plane should have."""

    data: bytes
    hash: str
    value: Mapping[str, Any]
    generation: int


class Handoff:
    """One gateway's socket pair; both ends stay open, so that its queue outlives the gateway."""

    def __init__(self) -> None:
        self.sending, self.receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _HANDOFF_BUFFER_BYTES)

    def close(self) -> None:
        """Close both ends."""
        self.sending.close()
        self.receiving.close()


class Fleet:
    """The edges, the gateways, and the memory they share."""

    def __init__(
        self,
        run_directory: Path,
        page: Page,
        rate_table_fd: int,
        *,
        gateways: int,
        edges: int = 1,
        listeners: Listeners,
        endpoints: EndpointTable,
        shuns: ShunTable,
        in_force: Callable[[], InForce],
        tasks: Tasks,
    ) -> None:
        self.page = page
        self._rate_table_fd = rate_table_fd
        self._listeners = listeners
        self._endpoints = endpoints
        self._shuns = shuns
        self._shuns_untold = asyncio.Event()
        #: One list at a time: an older one must not overtake a newer.
        self._telling_shuns = asyncio.Lock()
        self._in_force = in_force
        self._tasks = tasks
        #: By edge worker, then by gateway: an end told to one edge must not be heard by another.
        self._handoffs = [[Handoff() for _ in range(gateways)] for _ in range(edges)]
        self._board: Board = native.PlaceBoard.create(2 * edges)
        self._edge_rates_fd = native.create_rate_table()
        self._edge_bytes_fd = native.create_rate_table()
        self._salt = secrets.randbits(63)
        self._seats: dict[Child, Seat] = {}
        self._dirty: dict[Child, asyncio.Event] = {}
        self._keepers: dict[Child, asyncio.Task[None]] = {}
        self._attendants: dict[Child, list[asyncio.Task[None]]] = {}
        self._stopping = False

        self._run_directory = run_directory
        self.gateways = [self._child(f"gateway-{i}", "gateway", i) for i in range(gateways)]
        self.edges = [self._child(f"edge-{i}", "edge", i) for i in range(edges)]
        for edge in self.edges:
            self._seats[edge] = Seat(edge.index, edge.index)
        #: Edge processes that come or go: successors before, predecessors after they took over.
        self.passing: list[Child] = []
        self._watch = Watch(self.children, self.page.read)

    @property
    def children(self) -> list[Child]:
        """Every child that there is."""
        return [*self.edges, *self.passing, *self.gateways]

    def start(self) -> None:
        """Start every child, and the tasks that keep it alive, informed and watched."""
        for child in self.children:
            self._attend(child)
        self._tasks.keep("shuns", self._keep_telling_shuns)
        self._tasks.keep("watch", self._watch.keep_looking)

    @property
    def ready(self) -> bool:
        """Whether an edge is ready, and at least one gateway, where there are any."""
        working = not self.gateways or any(g.takes_work for g in self.gateways)
        return working and any(edge.state == "ready" for edge in self.edges)

    def endpoints_changed(self) -> None:
        """Have the endpoint states sent to every child, soon and once."""
        for dirty in self._dirty.values():
            dirty.set()

    async def put_snapshot(self, snapshot: InForce) -> dict[str, str]:
        """Put a snapshot in force in every running child; return refusals by child.

        The edge comes last: gateways know a listener before it brings them connections, and an
        edge that has closed a listener could not take it back.
        """
        refusals = await self._put_all(self.gateways, snapshot)
        return refusals or await self._put_all(self.edges, snapshot)

    async def tell_endpoints(self) -> None:
        """Send the endpoint states now; a child that does not take them is told again later."""
        states = self._endpoints.encoded()
        running = [child for child in self.children if child.state == "ready"]
        await asyncio.gather(
            *(child.client.put_endpoints(states) for child in running), return_exceptions=True
        )

    async def tell_shuns(self) -> bool:
        """Send the shun list to the edges now; say whether all have it; others are told later."""
        async with self._telling_shuns:
            encoded = self._shuns.encoded()
            # one that is not ready is told when it is
            told = [await self._tell_shuns(edge, encoded) for edge in self.edges]
        return all(told)

    async def _tell_shuns(self, edge: Child, encoded: bytes) -> bool:
        if edge.state != "ready":
            return False
        try:
            await edge.client.put_shuns(encoded)
        except ChildError as error:
            log.warning(
                "the edge was not told whom to shun",
                extra=fields(process=edge.name, error=error),
            )
            self._shuns_untold.set()
            return False
        return True

    async def catch_up(self) -> None:
        """Give the snapshot in force to children that started while it changed."""
        wanted = self._in_force()
        for child in [*self.edges, *self.gateways]:  # one that finishes keeps what it has
            if child.state == "ready" and child.generation != wanted.generation:
                refusal = await self._put(child, wanted)
                if refusal:
                    log.error(
                        "child refuses the snapshot in force, starting it again",
                        extra=fields(process=child.name, error=refusal),
                    )
                    child.kill()

    async def pass_listeners(self, opened: Mapping[Any, socket.socket]) -> None:
        """Give new listening sockets to the running edges; a later one finds them in its bootstrap.

        Raises:
            ChildError: an edge did not take one.
        """
        for edge in self.edges:
            seat = self._seats[edge]
            for key, listener in opened.items():
                if edge.state == "ready" and seat.channel is not None and seat.takes(key):
                    await seat.give(edge.name, str(key), listener, _CHANNEL_SECONDS)

    # Edge processes that take over from others: upgrade.py.

    def start_successor(self, old: Child) -> Child:
        """Start a process that can take over from an edge; it is tried once."""
        seat = self._seats[old]
        workers = len(self.edges)
        region = (seat.region + workers) % (2 * workers)
        new = self._child(f"{old.name}-new", "edge", old.index, second=region >= workers)
        new.trial = True
        self._seats[new] = Seat.after(seat.worker, region)
        self.passing.append(new)
        self._watch.add(new)
        self._attend(new)
        return new

    async def hand_over(self, old: Child, new: Child) -> None:
        """Have an edge give way to its successor.

        Raises:
            ChildError: it did not; it serves on.
        """
        speaking = self._seats[new].predecessor_end
        assert speaking is not None  # noqa: S101 - made with the seat, and used once
        for child in (old, new):  # both may be deaf meanwhile
            child.snapshots_coming += 1
        # From here on it may be the one that serves: should it die, it has to come back.
        new.trial = False
        try:
            await self._seats[old].give(old.name, SUCCESSION_KEY, speaking, _SUCCESSION_SECONDS)
        except BaseException:
            new.trial = True
            raise
        finally:
            for child in (old, new):
                child.snapshots_coming -= 1
            self._seats[new].close_succession()

    def promote(self, old: Child, new: Child) -> None:
        """Have a successor that has taken over be the edge; the old process only finishes."""
        old.retire()
        self.passing.remove(new)
        self.passing.append(old)
        self.edges[self.edges.index(old)] = new
        old.name, new.name = f"{old.name}-old", old.name
        # what the name has counted goes on: an upgrade is no restart
        new.restarts, new.hangs, old.restarts, old.hangs = old.restarts, old.hangs, 0, 0
        self._dirty[new].set()
        self._shuns_untold.set()

    def let_go(self, child: Child) -> None:
        """Forget an edge process that has ended."""
        self.passing.remove(child)
        for task in self._attendants.pop(child):
            task.cancel()
        del self._dirty[child], self._keepers[child]
        self._watch.forget(child)
        self._seats.pop(child).close_succession()

    async def drain(self, seconds: float) -> None:
        """Take no new connections, finish the open ones, and return when that is done.

        The edge comes first: what it has already accepted still finds a gateway.
        """
        self._stopping = True
        deadline_ms = int(seconds * 1000)
        for child in self.passing:
            if child.trial:  # it has not taken over, and now never will
                child.retire()
                child.kill()
        await self._say_drain([*self.edges, *self.passing], deadline_ms)
        self._listeners.close()
        for gateway in self.gateways:
            self.page.set_state(gateway.index, "draining")
        await self._say_drain(self.gateways, deadline_ms)
        await until(self._all_drained, _DRAINED_POLL_SECONDS)

    async def drain_gateway(self, child: Child, order: Order) -> None:
        """Let one gateway finish and end; whether it gets a successor is in the order."""
        child.obey(order)
        self._set_page(child, "draining")
        await finish(child, order, self._tasks)

    async def stop(self, grace_seconds: float) -> None:
        """End every child; after the grace the kernel does it."""
        self._stopping = True
        if self._keepers:
            await end_all(self.children, list(self._keepers.values()), grace_seconds)

    def close(self) -> None:
        """Give the shared memory and the sockets back."""
        for handoff in (handoff for each in self._handoffs for handoff in each):
            handoff.close()
        for seat in self._seats.values():
            seat.close_channel()
            seat.close_succession()
        os.close(self._rate_table_fd)
        os.close(self._edge_rates_fd)
        os.close(self._edge_bytes_fd)

    # What a child's life does to the rest: the Observer of children.py.

    def child_starting(self, child: Child) -> None:
        """A process is about to be spawned."""
        self._set_page(child, "starting")

    def child_ready(self, child: Child) -> None:
        """A process serves; a gateway has marked itself ready in the load page."""
        log.info(
            "child is ready",
            extra=fields(process=child.name, pid=child.pid, generation=child.generation),
        )
        self._dirty[child].set()
        if child.tier == "edge":
            self._shuns_untold.set()
        if child.order is not None:  # given while it was starting
            self._set_page(child, "draining")
            self._tasks.once(f"drain {child.name}", finish(child, child.order, self._tasks))
        if not self._stopping and child.generation != self._in_force().generation:
            self._tasks.once(f"catch up {child.name}", self.catch_up())

    def child_down(self, child: Child) -> None:
        """A process has ended."""
        self._set_page(child, "down")  # ends its incarnation
        if child.held:
            # not "down": nothing is to be queued for a successor that does not come
            self._set_page(child, "draining")
        if seat := self._seats.get(child):
            seat.close_channel()
            self._board.empty(seat.region)

    def _set_page(self, child: Child, state: str) -> None:
        if child.tier == "gateway":
            self.page.set_state(child.index, state)

    def _launch(self, child: Child) -> Launch:
        snapshot = self._in_force()
        document: dict[str, Any] = {
            "name": child.name,
            "index": child.index,
            "generation": snapshot.generation,
            "control_socket": str(child.control_socket),
            "endpoints": self._endpoints.states(),
            "load_page_fd": self.page.fd,
            "gateways": len(self.gateways),
        }
        if seat := self._seats.get(child):
            document |= {
                "regions": 2 * len(self.edges),
                "region": seat.region,
                "salt": self._salt,
            }
        own, close_after = (
            self._gateway_fds(child.index)
            if child.tier == "gateway"
            else self._edge_fds(self._seats[child])
        )
        document |= own
        if child.tier == "edge" and (shuns := self._shuns.entries()):
            document["shuns"] = shuns
        return Launch(
            command=(sys.executable, "-P", "-m", _MODULES[child.tier]),
            bootstrap=_with_snapshot(document, snapshot.data),
            generation=snapshot.generation,
            pass_fds=(self.page.fd, *_descriptors(own)),
            close_after=close_after,
        )

    def _gateway_fds(self, index: int) -> tuple[dict[str, Any], tuple[int, ...]]:
        own = {
            "rate_table_fd": self._rate_table_fd,
            "handoff_fds": [each[index].receiving.fileno() for each in self._handoffs],
        }
        return own, ()

    def _edge_fds(self, seat: Seat) -> tuple[dict[str, Any], tuple[int, ...]]:
        own, close_after = seat.bootstrap(self._listeners)
        own |= {
            "handoff_fds": [each.sending.fileno() for each in self._handoffs[seat.worker]],
            "rate_table_fd": self._edge_rates_fd,
            "byte_table_fd": self._edge_bytes_fd,
            "places_fd": self._board.fd,
        }
        return own, close_after

    def _child(self, name: str, tier: str, index: int, *, second: bool = False) -> Child:
        # two processes of an edge worker need a socket each
        path = self._run_directory / f"{tier}-{index}{'-b' if second else ''}.sock"
        return Child(name, tier, index, path, self._launch, observer=self)

    def _attend(self, child: Child) -> None:
        self._dirty[child] = asyncio.Event()
        self._keepers[child] = self._tasks.keep(f"keep {child.name}", child.keep_alive)
        attendants = [self._tasks.keep(f"inform {child.name}", self._informer(child))]
        if child.tier == "edge":
            asking = self._tasks.keep(f"ask {child.name}", lambda: self._watch.keep_asking(child))
            attendants.append(asking)
        self._attendants[child] = attendants

    def _informer(self, child: Child) -> Callable[[], Any]:
        dirty = self._dirty[child]

        async def inform() -> None:
            """Send the latest states; changes that come close together go as one."""
            while True:
                await dirty.wait()
                await asyncio.sleep(_PUSH_PAUSE_SECONDS)
                dirty.clear()
                if child.state != "ready":  # its bootstrap, or becoming ready, will tell it
                    continue
                try:
                    await child.client.put_endpoints(self._endpoints.encoded())
                except ChildError as error:
                    log.warning(
                        "child was not told of endpoint states",
                        extra=fields(process=child.name, error=error),
                    )
                    dirty.set()
                    await asyncio.sleep(_PUSH_RETRY_SECONDS)

        return inform

    async def _keep_telling_shuns(self) -> None:
        while True:
            await self._shuns_untold.wait()
            self._shuns_untold.clear()
            if not await self.tell_shuns() and self._shuns_untold.is_set():
                await asyncio.sleep(_PUSH_RETRY_SECONDS)

    async def _put_all(self, children: Iterable[Child], snapshot: InForce) -> dict[str, str]:
        running = [child for child in children if child.state == "ready"]
        answers = await asyncio.gather(*(self._put(child, snapshot) for child in running))
        return {child.name: text for child, text in zip(running, answers, strict=True) if text}

    async def _put(self, child: Child, snapshot: InForce) -> str:
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

    async def _say_drain(self, children: Iterable[Child], deadline_ms: int) -> None:
        for child in children:
            child.retire()
        results = await asyncio.gather(
            *(child.client.drain(deadline_ms) for child in children if child.state == "ready"),
            return_exceptions=True,
        )
        for error in results:
            if isinstance(error, BaseException):
                log.warning("child does not drain", extra=fields(error=error))

    async def _all_drained(self) -> bool:
        return all(await asyncio.gather(*(_drained(child) for child in self.children)))


async def _drained(child: Child) -> bool:
    if child.pid is None:
        return True
    try:
        return bool((await child.client.status())["drained"])
    except ChildError:
        return False


def _descriptors(own: Mapping[str, Any]) -> Iterable[int]:
    for value in own.values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _with_snapshot(document: Mapping[str, Any], snapshot: bytes) -> bytes:
    """Put the snapshot's own bytes into the bootstrap: parsing a large one again would be waste."""
    head = json.dumps(document, separators=(",", ":")).encode()
    return head[:-1] + b',"snapshot":' + snapshot + b"}"
