"""A configuration built call by call: ``Configuration().listen("web").pool(...).route(...)``."""

from pathlib import Path
from typing import Any, Self

import yaml

from weirgate.shared.testing.ports import free_port

LOOPBACK = "127.0.0.1"


class Configuration:
    """A configuration file in the making; every call adds one thing and returns ``self``.

    A listener without ``bind`` gets a free port of 127.0.0.1, and so does the admin API.
    """

    def __init__(self, *, workers: int = 1) -> None:
        """Start with an admin API on a free port and ``workers`` gateways."""
        self.data: dict[str, Any] = {
            "listeners": {},
            "pools": {},
            "routes": [],
            "gateway": {"workers": workers},
            "admin": {"bind": f"{LOOPBACK}:{free_port()}"},
        }

    def listen(self, name: str, **settings: Any) -> Self:
        """Add a listener."""
        settings.setdefault("bind", f"{LOOPBACK}:{free_port()}")
        self.data["listeners"][name] = settings
        return self

    def pool(self, name: str, *endpoints: int | str, **settings: Any) -> Self:
        """Add a pool; an endpoint given as a number is a port of 127.0.0.1."""
        addresses = [f"{LOOPBACK}:{e}" if isinstance(e, int) else e for e in endpoints]
        self.data["pools"][name] = {"endpoints": addresses, **settings}
        return self

    def route(self, name: str, **settings: Any) -> Self:
        """Add a route behind those already there."""
        self.data["routes"].append({"name": name, **settings})
        return self

    def gateway(self, **settings: Any) -> Self:
        """Set fields of the gateway section."""
        self.data["gateway"].update(settings)
        return self

    def logs(self, **settings: Any) -> Self:
        """Set fields of the logs section."""
        self.data.setdefault("logs", {}).update(settings)
        return self

    def port(self, listener: str) -> int:
        """Return the port of a listener's first address."""
        bind = self.data["listeners"][listener]["bind"]
        first = bind if isinstance(bind, str) else bind[0]
        return int(first.rpartition(":")[2])

    @property
    def admin_port(self) -> int:
        """The port of the admin API."""
        return int(self.data["admin"]["bind"].rpartition(":")[2])

    def yaml(self) -> str:
        """Return the file's text."""
        return yaml.safe_dump(self.data, sort_keys=False)

    def write(self, path: Path) -> None:
        """Write the file, at once for whoever reads it meanwhile."""
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(self.yaml())
        scratch.replace(path)
