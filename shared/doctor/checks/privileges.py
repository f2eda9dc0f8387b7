"""May the supervisor bind the ports that it is told to?"""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor import needs
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_SETTING = "net.ipv4.ip_unprivileged_port_start"
_CAP_NET_BIND_SERVICE = 10


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the lowest port with what this user may bind."""
    wanted = [(port, name) for name, port in needs.ports(config) if port]
    if not wanted:
        return
    port, name = min(wanted)
    first = host.number(_SETTING)
    capable = host.has_capability(_CAP_NET_BIND_SERVICE)
    if first is None and not capable:
        yield unreadable(_SETTING, f"whether port {port} of listener {name} may be bound")
    elif capable or (first is not None and port >= first):
        yield fine(_SETTING, first, f"port {port} of listener {name} may be bound")
    else:
        yield Finding(
            _SETTING,
            str(first),
            "error",
            f"this user may not bind port {port} of listener {name}, and has no "
            "CAP_NET_BIND_SERVICE",
            f"at most {port}",
            f"sysctl -w {_SETTING}={port}",
        )
