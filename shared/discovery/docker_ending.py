"""Which containers have been told to end: the engine's news alone say so, its list does not.

Between ``docker stop`` and the end of its processes a container takes what comes, if it still
does; what is on its way to it when it ends is lost.
"""

import signal
import time
from collections.abc import Callable, Collection
from typing import Any

#: What images ask to be ended with (``STOPSIGNAL``): most by SIGTERM, nginx by SIGQUIT, httpd by
#: SIGWINCH, systemd by SIGRTMIN+3. Others are words of another kind, such as SIGHUP for a reload.
_ENDING = {
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM, signal.SIGWINCH),
    signal.SIGRTMIN + 3,
}
#: Whoever runs on for so long does not mind the signal.
LONGEST_SECONDS = 600.0


class Ending:
    """The containers of one engine that have been told to end, by id."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since: dict[str, float] = {}

    def note(self, event: Any) -> None:
        """Take one of the engine's events; what has another form is none of those meant."""
        if not isinstance(event, dict) or event.get("Type") != "container":
            return
        actor = event.get("Actor")
        if not isinstance(actor, dict) or not isinstance(name := actor.get("ID"), str):
            return
        if event.get("Action") == "start":
            self._since.pop(name, None)
        elif event.get("Action") == "kill" and _signal(actor.get("Attributes")) in _ENDING:
            self._since.setdefault(name, self._now())

    def forget(self) -> None:
        """Forget all: what was told from now on may have been missed."""
        self._since.clear()

    def among(self, listed: Collection[str]) -> frozenset[str]:
        """Return those of the listed containers that are about to end, and forget the others."""
        latest = self._now() - LONGEST_SECONDS
        known = {n: at for n, at in self._since.items() if n in listed and at > latest}
        self._since = known
        return frozenset(known)


def _signal(attributes: Any) -> int:
    """Return an event's: ``"15"`` or, from other engines, ``"SIGTERM"``; 0 = none."""
    text = attributes.get("signal") if isinstance(attributes, dict) else None
    if not isinstance(text, str):
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= len("64"):
        return int(text)
    return signal.Signals.__members__.get(text, 0)
