"""A configuration file made ready to run: loaded, compiled, accepted by the data planes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weirgate.shared.config import (
    ConfigErrors,
    Loaded,
    Problem,
    Role,
    compile_snapshot,
    in_role,
    load,
    problems_from_native,
)
from weirgate.shared.config.discovered import Discovered, LabelReader, with_discovered
from weirgate.shared.config.kernel import kernel_warnings
from weirgate.shared.config.watched import Signature
from weirgate.shared.discovery.found import Found
from weirgate.shared.supervisor import settings
from weirgate.shared.supervisor.listeners import UDP, Key
from weirgate.shared.supervisor.settings import Settings
from weirgate.shared.supervisor.snapshots import InForce
from weirgate.shared.supervisor.socket_options import SocketOptions


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a file asks for."""

    settings: Settings
    data: bytes
    hash: str
    value: Mapping[str, Any]
    #: Warnings only: a file with errors has no plan.
    problems: tuple[Problem, ...]
    #: Files that were read, as they were then.
    files: Mapping[Path, Signature] = field(default_factory=dict)
    #: What the file says, without what was discovered.
    written: Loaded | None = field(default=None, repr=False, compare=False)
    discovered: Discovered = field(default_factory=Discovered)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings as text."""
        return tuple(problem.render() for problem in self.problems)

    def keys(self) -> list[Key]:
        """Return the listening sockets wanted."""
        return [
            Key(listener["name"], UDP + bind if listener["protocol"] == "udp" else bind)
            for listener in self.value["listeners"]
            for bind in listener["bind"]
        ]

    def addresses(self) -> set[str]:
        """Return every address that the node listens on."""
        own = {*self.settings.load_binds, self.settings.admin_bind or ""}
        return own | {key.bind for key in self.keys()}

    def options(self) -> dict[str, SocketOptions]:
        """Return the options of the listening sockets, by the listener's name."""
        return {
            listener["name"]: SocketOptions.of(listener["socket"])
            for listener in self.value["listeners"]
        }

    def in_force(self, generation: int) -> InForce:
        """Return the snapshot under a generation."""
        return InForce(self.data, self.hash, self.value, generation)


@dataclass(frozen=True, slots=True)
class Planner:
    """Reads one file, again and again, under what holds for the supervisor's life."""

    path: Path
    environ: Mapping[str, str]
    cookie_secret: str
    workers: int | None = None
    role: Role = Role.BOTH
    #: Addresses of the names that gateway nodes are found by; kept fresh by an edge.
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: What the sources of discovery have told last, by kind.
    found: dict[str, tuple[Found, ...]] = field(default_factory=dict)
    labels: LabelReader = field(default_factory=LabelReader)
    #: Whether the file itself, what it includes and its secrets are watched, too.
    watch: bool = False

    def plan(self, written: Loaded | None = None) -> Plan:
        """Read the file. It blocks for tens of milliseconds: on a running loop use a thread.

        Args:
            written: What the file has said before: then it is not read again, and an edit that
                nobody has asked to put in force stays out of force.

        Raises:
            ConfigErrors: the file is refused, with everything that is wrong.
        """
        written = written or self._read()
        try:
            plan = self._labelled(written)
        except ConfigErrors as error:
            error.files = {**error.files, **self._own(written.seen)}
            raise
        return replace(plan, files={**plan.files, **self._own(written.seen)})

    def _read(self) -> Loaded:
        try:
            return load(self.path, self.environ)
        except ConfigErrors as error:
            error.files = self._own(error.files)
            raise

    def _own(self, files: Mapping[Path, Signature]) -> Mapping[Path, Signature]:
        return files if self.watch else {}

    def _labelled(self, written: Loaded) -> Plan:
        """Make a plan of the file and of what labels add to it."""
        if written.config.discovery is None:
            return replace(self._plan(written), written=written)
        pieces = self.labels.read(written, dict(self.found))
        plan, discovered = with_discovered(written, pieces, self._plan)
        return replace(plan, written=written, discovered=discovered)

    def _plan(self, whole: Loaded) -> Plan:
        """Make a plan of a checked configuration."""
        loaded = in_role(whole, self.role, self.names)
        snapshot = compile_snapshot(loaded, cookie_secret=self.cookie_secret)
        refused = problems_from_native(loaded, _refusals(snapshot.data))
        refused += _unsafe_admin(loaded)
        if refused:
            raise ConfigErrors(refused, snapshot.files)
        return Plan(
            settings.read(loaded, workers=self.workers),
            snapshot.data,
            snapshot.hash,
            snapshot.value,
            (*loaded.warnings, *kernel_warnings(loaded)),
            snapshot.files,
        )


def _refusals(snapshot: bytes) -> list[tuple[str, str]]:
    try:
        from weirgate.shared import native
    except ImportError:  # only ``check`` gets by without the data planes
        return []
    return native.validate(snapshot)


def _unsafe_admin(loaded: Loaded) -> list[Problem]:
    """Refuse what the schema alone only warns of: an admin API open to others without a token."""
    if not settings.admin_is_open(loaded.config):
        return []
    got = loaded.config.admin.bind
    wanted = "an address of this host only (127.0.0.1 or [::1]), or admin.token"
    known = [problem for problem in loaded.warnings if problem.path == "admin.bind"]
    if known:
        return [replace(known[0], severity="error")]
    file = str(loaded.path)
    return [Problem("", "error", file, 1, 1, "admin.bind", got, wanted, "")]
