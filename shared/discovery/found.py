"""What discovery finds: objects that carry a piece of configuration in their labels.

A source (Docker, Kubernetes) knows how to watch; what its labels mean is the same for all
(``shared/config/labels.py``), and so is where it goes from there: into the one model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

#: ``down``: left out. ``draining``: kept, with the weight 0; used where nothing else is up.
AddressState = Literal["up", "down", "draining"]


@dataclass(frozen=True, slots=True, order=True)
class FoundAddress:
    """One address of an object; ``ports`` are those that it is known by, by name."""

    host: str
    state: AddressState = "up"
    #: Why it is not up, for people: "unhealthy", "starting", "terminating".
    why: str = ""
    zone: str = ""
    #: Named ports (Kubernetes); empty where a number is needed.
    ports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One object with labels, such as a container or a Service."""

    #: As messages name it: ``container shop_api_1``, ``Service shop/api``.
    name: str
    #: Without the prefix: ``{"pool": "api", "port": "8000", "route.api.match.path": "/api/*"}``.
    labels: Mapping[str, str]
    addresses: tuple[FoundAddress, ...] = ()
    #: The port where no label names one, such as the only one that an image exposes.
    default_port: int | None = None
    #: What keeps the object from being used at all, for people.
    trouble: str = ""


#: Takes everything that a source knows now, the oldest first: of two objects that contradict each
#: other the earlier one's word holds. Equal states compare equal.
Changed = Callable[[tuple[Found, ...]], None]
#: Takes what is wrong with the source itself, or "" when it is well again.
Said = Callable[[str], None]


class DiscoverySource(Protocol):
    """Something that can be watched for objects."""

    #: ``docker`` or ``kubernetes``.
    kind: str

    async def watch(self, changed: Changed, said: Said) -> None:
        """Tell of the whole state at first and after each change, until cancelled.

        A failure of the source is told by ``said`` and tried again; what was last told of objects
        stays in force meanwhile. Nothing is raised.
        """
