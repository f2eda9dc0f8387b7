"""New connections: the queues that they wait in, and what a flood of SYNs does to them."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.config.sockets import DEFAULT_BACKLOG
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_SOMAXCONN = "net.core.somaxconn"
_COOKIES = "net.ipv4.tcp_syncookies"
_SYN_BACKLOG = "net.ipv4.tcp_max_syn_backlog"
_MIGRATE = "net.ipv4.tcp_migrate_req"


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the kernel's queues with the listeners' backlog."""
    written = {n: v.backlog for n, v in config.listeners.items() if "backlog" in v.model_fields_set}
    backlog = max((v.backlog for v in config.listeners.values()), default=DEFAULT_BACKLOG)
    yield _queue(host, backlog, written)
    yield _cookies(host)
    yield _half_open(host, backlog)
    yield _migration(host)


def _queue(host: Host, backlog: int, written: dict[str, int]) -> Finding:
    most = host.number(_SOMAXCONN)
    if most is None:
        return unreadable(_SOMAXCONN, "how many connections may wait to be accepted")
    if most >= backlog:
        return fine(_SOMAXCONN, most, f"holds a backlog of {backlog}")
    asked = [name for name, wish in written.items() if wish > most]
    whose = f"of listener {asked[0]}" if asked else "that is the default"
    return Finding(
        _SOMAXCONN,
        f"{most}",
        "error" if asked else "warning",
        f"the kernel cuts the backlog {whose} to this; in a burst the rest is dropped and tried "
        "again a second later",
        f"at least {backlog}",
        f"sysctl -w {_SOMAXCONN}={backlog}",
    )


def _cookies(host: Host) -> Finding:
    mode = host.number(_COOKIES)
    if mode is None:
        return unreadable(_COOKIES, "whether a flood of SYNs shuts out clients")
    if mode == 1:
        return fine(_COOKIES, mode, "a flood of SYNs does not fill the queue")
    always = "cookies always, not in a flood only, lose the window scaling of some clients"
    never = "a flood of SYNs from invented addresses fills the queue, and clients are shut out"
    return Finding(
        _COOKIES,
        f"{mode}",
        "error" if mode == 0 else "warning",
        never if mode == 0 else always,
        "1",
        f"sysctl -w {_COOKIES}=1",
    )


def _half_open(host: Host, backlog: int) -> Finding:
    most = host.number(_SYN_BACKLOG)
    if most is None:
        return unreadable(_SYN_BACKLOG, "how many handshakes may be under way without cookies")
    if host.number(_COOKIES) != 0 or most >= backlog:
        return fine(_SYN_BACKLOG, most, "bounds nothing while SYN cookies are on, or is enough")
    return Finding(
        _SYN_BACKLOG,
        f"{most}",
        "warning",
        "without SYN cookies at most so many handshakes may be under way",
        f"at least {backlog}",
        f"sysctl -w {_SYN_BACKLOG}={backlog}",
    )


def _migration(host: Host) -> Finding:
    mode = host.number(_MIGRATE)
    if mode is None:
        return unreadable(_MIGRATE, "nothing here: no listener is one of several sockets on a port")
    return fine(
        _MIGRATE,
        mode,
        "not needed: each address has one socket, which outlives every process that accepts on it",
    )
