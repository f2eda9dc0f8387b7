"""File descriptors: what a process may open, and what the configuration lets it need."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor import needs
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_SETTING = "RLIMIT_NOFILE"
#: Where the configuration names no bound: below this a busy node meets the limit soon.
_USUAL = 16_384
#: A hard limit is raised by whoever starts the process.
_SERVICE = "LimitNOFILE={0} in the service's unit, or as root: prlimit --nofile={0}:{0} --pid $$"


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the limit, which children inherit, with the hungriest process."""
    limits = host.open_files()
    if limits is None:
        yield unreadable(_SETTING, "how many connections a process may hold")
        return
    soft, hard = limits
    tiers = (
        ("the edge", needs.edge_descriptors(config), bool(needs.of_protocol(config, "tcp"))),
        ("a gateway", needs.gateway_descriptors(config), bool(needs.of_protocol(config, "http"))),
    )
    known = [(need, who) for who, need, used in tiers if used and need is not None]
    unbounded = [who for who, need, used in tiers if used and need is None]
    need, who = max(known, default=(0, ""))
    if need > soft:
        why = f"{who} may need {need:,} descriptors for the max_connections of its listeners"
        yield Finding(_SETTING, f"{soft}", "error", why, f"{need}", _command(need, hard))
    elif (unbounded or not known) and soft < _USUAL:
        why = (
            f"{' and '.join(unbounded) or 'a process'} takes as many connections as come "
            f"(no max_connections), and stops accepting at this limit"
        )
        yield Finding(_SETTING, f"{soft}", "warning", why, f"{_USUAL}", _command(_USUAL, hard))
    else:
        yield fine(_SETTING, soft, f"{who} needs {need:,}" if need else "enough for most loads")
    processes = config.edge.workers + config.gateway.workers
    yield from _whole_host(host, max(need, _USUAL if unbounded else 0), processes)


def _whole_host(host: Host, need: int, processes: int) -> Iterator[Finding]:
    total = need * processes
    most = host.number("fs.file-max")
    if most is None:
        yield unreadable("fs.file-max", "how many files all processes together may open")
    elif most < total:
        why = f"{processes} processes may have {total:,} files open together"
        command = f"sysctl -w fs.file-max={total * 2}"
        yield Finding("fs.file-max", f"{most}", "error", why, f"{total}", command)
    else:
        yield fine("fs.file-max", most, "enough for all processes together")


def _command(need: int, hard: int) -> str:
    return f"ulimit -n {need}" if need <= hard else _SERVICE.format(need)
