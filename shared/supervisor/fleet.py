"""The node's child processes together: what they share, and what is said to all of them.

Of each edge worker there are two processes for a while when it is upgraded (``upgrade.py``).
"""

import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared.observability.logs import fields
from weirgate.shared.polling import until
from weirgate.shared.supervisor.children import Child, Launch, end_all
from weirgate.shared.supervisor.draining import all_drained, say_drain
from weirgate.shared.supervisor.edges import Seat
from weirgate.shared.supervisor.endpoint_updates import EndpointUpdates
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.finishing import finish
from weirgate.shared.supervisor.handoffs import Handoffs, Page
from weirgate.shared.supervisor.launches import Launcher
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.shared_memory import SharedMemory
from weirgate.shared.supervisor.shun_updates import ShunUpdates
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.snapshots import InForce, catch_up, put_in_all
from weirgate.shared.supervisor.succession import hand_over, successor_seat, take_name
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.watch import Watch

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

_CHANNEL_SECONDS = 5.0
_DAY_SECONDS = 24 * 3600.0
_DRAINED_POLL_SECONDS = 0.02


class Fleet:
    """The edges and the gateways: which there are, how they begin, and how they end."""

    def __init__(
        self,
        run_directory: Path,
        page: Page,
        rate_table_fd: int,
        *,
        gateways: int,
        attached: bool = False,
        edges: int = 1,
        listeners: Listeners,
        endpoints: EndpointTable,
        shuns: ShunTable,
        in_force: Callable[[], InForce],
        tasks: Tasks,
    ) -> None:
        self.page = page
        self._listeners = listeners
        self._in_force = in_force
        self._tasks = tasks
        self._handoffs = Handoffs(edges=edges, gateways=gateways)
        self._memory = SharedMemory(page, rate_table_fd, edges=edges)
        self._launcher = Launcher(
            self._memory, self._handoffs, listeners, endpoints, shuns, in_force
        )
        self.endpoint_updates = EndpointUpdates(endpoints)
        self._keepers: dict[Child, asyncio.Task[None]] = {}
        self._attendants: dict[Child, list[asyncio.Task[None]]] = {}
        self._stopping = False

        self._run_directory = run_directory
        self.gateways = [self._child(f"gateway-{i}", "gateway", i) for i in range(gateways)]
        for gateway in self.gateways:
            gateway.is_seat = attached
        self.edges = [self._child(f"edge-{i}", "edge", i) for i in range(edges)]
        self._seats = {edge: Seat(edge.index, edge.index) for edge in self.edges}
        self.shun_updates = ShunUpdates(shuns, self.edges)
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
        self._tasks.keep("shuns", self.shun_updates.keep_telling)
        self._tasks.keep("watch", self._watch.keep_looking)

    @property
    def present(self) -> list[Child]:
        """The children that somebody is there to run: all but vacant seats."""
        return [child for child in self.children if not child.vacant]

    @property
    def started(self) -> bool:
        """Whether all of this node's own are ready, and of attached gateways one at least."""
        own = all(child.state == "ready" for child in self.children if not child.is_seat)
        return own and (not self.gateways or any(g.state == "ready" for g in self.gateways))

    @property
    def ready(self) -> bool:
        """Whether an edge is ready, and at least one gateway, where there are any."""
        working = not self.gateways or any(g.takes_work for g in self.gateways)
        return working and any(edge.state == "ready" for edge in self.edges)

    async def put_snapshot(self, snapshot: InForce) -> dict[str, str]:
        """Put a snapshot in force in every running child; return refusals by child.

        The edge comes last: gateways know a listener before it brings them connections, and an
        edge that has closed a listener could not take it back.
        """
        refusals = await put_in_all(self.gateways, snapshot)
        return refusals or await put_in_all(self.edges, snapshot)

    async def tell_endpoints(self) -> None:
        """Send the endpoint states now; a child that does not take them is told again later."""
        await self.endpoint_updates.tell_now(self.children)

    async def catch_up(self) -> None:
        """Give the snapshot in force to children that started while it changed."""
        # one that finishes keeps what it has
        await catch_up([*self.edges, *self.gateways], self._in_force())

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
        workers = len(self.edges)
        seat = successor_seat(self._seats[old], workers)
        new = self._child(f"{old.name}-new", "edge", old.index, second=seat.region >= workers)
        new.trial = True
        self._seats[new] = seat
        self.passing.append(new)
        self._watch.add(new)
        self._attend(new)
        return new

    async def hand_over(self, old: Child, new: Child) -> None:
        """Have an edge give way to its successor.

        Raises:
            ChildError: it did not; it serves on.
        """
        await hand_over(old, self._seats[old], new, self._seats[new])

    def promote(self, old: Child, new: Child) -> None:
        """Have a successor that has taken over be the edge; the old process only finishes."""
        old.retire()
        self.passing.remove(new)
        self.passing.append(old)
        self.edges[self.edges.index(old)] = new
        take_name(new, old)
        self.endpoint_updates.tell_soon(new)
        self.shun_updates.tell_soon()

    def let_go(self, child: Child) -> None:
        """Forget an edge process that has ended."""
        self.passing.remove(child)
        for task in self._attendants.pop(child):
            task.cancel()
        self.endpoint_updates.forget(child)
        del self._keepers[child]
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
        await say_drain([*self.edges, *self.passing], deadline_ms)
        self._listeners.close()
        # those of other containers outlive this node: the next one takes them over
        own = [gateway for gateway in self.gateways if not gateway.is_seat]
        for gateway in own:
            self.page.set_state(gateway.index, "draining")
        await say_drain(own, deadline_ms)
        await until(lambda: all_drained(self.children), _DRAINED_POLL_SECONDS)

    async def drain_gateway(self, child: Child, order: Order) -> None:
        """Let one gateway finish and end; whether it gets a successor is in the order."""
        child.obey(order)
        self._set_page(child, "draining")
        await finish(child, order, self._tasks)

    def let_leave(self, child: Child, host: str) -> None:
        """Let a gateway finish whose container is about to end."""
        log.info("a gateway leaves", extra=fields(process=child.name, host=host))
        # its container's own grace period is the deadline
        by = f"its container {host}"
        order = Order(by, deadline_seconds=_DAY_SECONDS, incarnation=child.incarnation)
        self._tasks.once(f"drain {child.name}", self.drain_gateway(child, order))

    async def stop(self, grace_seconds: float) -> None:
        """End every child; after the grace the kernel does it."""
        self._stopping = True
        for seat in (child for child in self.children if child.is_seat):
            seat.retire()
            if seat.attachment is not None:
                seat.attachment.lost()
        if self._keepers:
            await end_all(self.children, list(self._keepers.values()), grace_seconds)

    def close(self) -> None:
        """Give the shared memory and the sockets back."""
        self._handoffs.close()
        for seat in self._seats.values():
            seat.close_channel()
            seat.close_succession()
        self._memory.close()

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
        self.endpoint_updates.tell_soon(child)
        if child.tier == "edge":
            self.shun_updates.tell_soon()
        self._move_queues()
        if child.order is not None:  # given while it was starting
            self._set_page(child, "draining")
            self._tasks.once(f"drain {child.name}", finish(child, child.order, self._tasks))
        if not self._stopping and child.generation != self._in_force().generation:
            self._tasks.once(f"catch up {child.name}", self.catch_up())

    def child_down(self, child: Child) -> None:
        """A process has ended."""
        if child.vacant:
            self._set_page(child, "draining")  # nothing more for it
            self._move_queues()
        self._set_page(child, "down")  # ends its incarnation
        if child.held:
            # not "down": nothing is to be queued for a successor that does not come
            self._set_page(child, "draining")
        if seat := self._seats.get(child):
            seat.close_channel()
            self._memory.board.empty(seat.region)

    def _move_queues(self) -> None:
        """Give what waits at vacant seats to gateways that are there."""
        vacant = [gateway.index for gateway in self.gateways if gateway.vacant]
        taking = [gateway.index for gateway in self.gateways if gateway.takes_work]
        self._handoffs.move(vacant, taking, self.page)

    def _set_page(self, child: Child, state: str) -> None:
        if child.tier == "gateway":
            self.page.set_state(child.index, state)

    def _launch(self, child: Child) -> Launch:
        return self._launcher.launch(child, self._seats.get(child))

    def _child(self, name: str, tier: str, index: int, *, second: bool = False) -> Child:
        # two processes of an edge worker need a socket each
        path = self._run_directory / f"{tier}-{index}{'-b' if second else ''}.sock"
        return Child(name, tier, index, path, self._launch, observer=self)

    def _attend(self, child: Child) -> None:
        updates = self.endpoint_updates
        updates.add(child)
        self._keepers[child] = self._tasks.keep(f"keep {child.name}", child.keep_alive)
        attendants = [self._tasks.keep(f"inform {child.name}", lambda: updates.keep_telling(child))]
        if child.tier == "edge":
            asking = self._tasks.keep(f"ask {child.name}", lambda: self._watch.keep_asking(child))
            attendants.append(asking)
        self._attendants[child] = attendants
