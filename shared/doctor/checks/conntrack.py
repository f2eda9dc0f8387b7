"""Connection tracking: a full table drops new connections, and nobody says why."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor import needs
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_MOST = "net.netfilter.nf_conntrack_max"
_COUNT = "net.netfilter.nf_conntrack_count"
_WARNING_SHARE, _ERROR_SHARE = 0.7, 0.95


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the table, where there is one, with what is in it and what may come."""
    if host.sysctl(_MOST) is None:
        yield fine(_MOST, "absent", "connections are not tracked here")
        return
    most, count = host.number(_MOST), host.number(_COUNT)
    if not most or count is None:
        yield unreadable(_MOST, "how full the table of tracked connections is")
        return
    clients = [needs.client_connections(config, protocol) for protocol in ("http", "tcp")]
    # a client's connection and the one to its endpoint
    need = 2 * sum(known or 0 for known in clients)
    share = count / most
    value = f"{count} of {most}"
    wanted = max(need * 2, most * 2)
    if share >= _WARNING_SHARE:
        severe = share >= _ERROR_SHARE
        why = "new connections are dropped when the table is full"
        yield Finding(
            _MOST, value, "error" if severe else "warning", why, f"{wanted}",
            f"sysctl -w {_MOST}={wanted}",
        )  # fmt: skip
    elif need > most:
        why = f"the listeners' max_connections can bring {need:,} tracked connections"
        yield Finding(_MOST, value, "error", why, f"{need}", f"sysctl -w {_MOST}={need * 2}")
    else:
        yield fine(_MOST, value, "room for more")
