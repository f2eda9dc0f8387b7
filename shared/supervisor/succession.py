"""One edge process gives way to another: what passes between the two."""

from weirgate.shared.control.boot import SUCCESSION_KEY
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.edges import Seat

#: The old edge gives up after 10 s at most, and then serves on.
_SUCCESSION_SECONDS = 15.0


def successor_seat(seat: Seat, workers: int) -> Seat:
    """Return the seat of a process that can take over: the worker's other part of the board."""
    return Seat.after(seat.worker, (seat.region + workers) % (2 * workers))


async def hand_over(old: Child, old_seat: Seat, new: Child, new_seat: Seat) -> None:
    """Have an edge give way to its successor.

    Raises:
        ChildError: it did not; it serves on.
    """
    speaking = new_seat.predecessor_end
    assert speaking is not None  # noqa: S101 - made with the seat, and used once
    for child in (old, new):  # both may be deaf meanwhile
        child.snapshots_coming += 1
    # From here on it may be the one that serves: should it die, it has to come back.
    new.trial = False
    try:
        await old_seat.give(old.name, SUCCESSION_KEY, speaking, _SUCCESSION_SECONDS)
    except BaseException:
        new.trial = True
        raise
    finally:
        for child in (old, new):
            child.snapshots_coming -= 1
        new_seat.close_succession()


def take_name(new: Child, old: Child) -> None:
    """Give a process that has taken over its predecessor's name, and what the name has counted."""
    old.name, new.name = f"{old.name}-old", old.name
    # an upgrade is no restart
    new.restarts, new.hangs, old.restarts, old.hangs = old.restarts, old.hangs, 0, 0
