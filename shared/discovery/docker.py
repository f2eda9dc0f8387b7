"""Containers of a Docker engine that have labels under a prefix.

All running containers are listed; what the engine tells of changes is only a reason to list again,
so that a message that was missed, or cannot be understood, costs at most the time until the next
resync. One thing no list shows: that a container has been told to end. Only GET requests are made.
Calls block, so each has a thread of its own, and none can keep the program from ending.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from weirgate.shared.config.discovery import DockerDiscovery
from weirgate.shared.discovery.docker_containers import container_ids, found_containers
from weirgate.shared.discovery.docker_ending import Ending
from weirgate.shared.discovery.docker_engine import Engine, EngineError, Events
from weirgate.shared.discovery.found import Changed, Said

T = TypeVar("T")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 10.0
#: Between two lists, whatever the engine tells.
_SHORTEST_GAP_SECONDS = 0.02
#: Looks after the one that follows news at once: the engine tells of a change, such as a pause,
#: shortly before its own list shows it.
_LOOK_AGAIN_SECONDS = (0.1, 0.4, 1.0)


class DockerSource:
    """Watches one engine."""

    kind = "docker"

    def __init__(self, section: DockerDiscovery) -> None:
        self._section = section
        self._engine = Engine(section.endpoint)
        self._ending = Ending()
        #: Why the engine tells no news, as of the last try.
        self._no_news = ""

    async def watch(self, changed: Changed, said: Said) -> None:
        """Tell of the containers at first and after each change, until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._lists()) as lists:
                    async for containers in lists:
                        ending = self._ending.among(container_ids(containers))
                        changed(found_containers(containers, self._section, ending))
                        said(self._no_news)
                        if not self._no_news:
                            pause = _FIRST_PAUSE_SECONDS
            except EngineError as error:
                said(str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _lists(self) -> AsyncGenerator[list[Any], None]:
        """Yield all containers, at once and whenever there is news, until the news end."""
        news, ended = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            ended.set()
            news.set()

        def hear(event: Any) -> None:
            self._ending.note(event)
            news.set()

        self._ending.forget()
        events = Events(
            self._engine,
            lambda event: _tell(loop, lambda: hear(event)),
            lambda: _tell(loop, end),
        )
        threading.Thread(target=events.run, name="docker events", daemon=True).start()
        looks = iter(_LOOK_AGAIN_SECONDS)
        try:
            while not ended.is_set():
                news.clear()
                containers = await _in_thread(lambda: self._engine.containers(self._section.match))
                if events.opened or events.error:
                    self._no_news = events.error
                yield containers
                await asyncio.sleep(_SHORTEST_GAP_SECONDS)
                pause = next(looks, self._section.resync.total_seconds())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), pause)
                    looks = iter(_LOOK_AGAIN_SECONDS)
            self._no_news = events.error
        finally:
            events.close()


async def _in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread that nobody waits for when the program ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the work was asked for
            problem = error
            _tell(loop, lambda: settle(None, problem))
        else:
            _tell(loop, lambda: settle(result, None))

    threading.Thread(target=run, name="docker", daemon=True).start()
    return await done


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(what)
