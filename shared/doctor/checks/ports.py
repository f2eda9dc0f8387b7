"""Ports of our own connections to endpoints: each needs one, and a closed one waits a minute."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor import needs
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_RANGE = "net.ipv4.ip_local_port_range"
_RESERVED = "net.ipv4.ip_local_reserved_ports"
_REUSE = "net.ipv4.tcp_tw_reuse"
_WIDEN = f'sysctl -w {_RANGE}="1024 65535"'
#: Where the configuration names no bound.
_USUAL = 16_384
_WAIT_SECONDS = 60


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the range of ports with the pools, and keep the listeners out of it."""
    span = host.numbers(_RANGE)
    if len(span) != 2:
        yield unreadable(_RANGE, "how many connections one endpoint can get from this host")
        return
    first, last = span
    yield _enough(config, first, last)
    taken = [(p, n) for n, p in needs.ports(config) if first <= p <= last]
    if taken:
        yield _collision(host, taken, first, last)
    if needs.of_protocol(config, "tcp"):
        yield _reuse(host, last - first + 1)


def _enough(config: Config, first: int, last: int) -> Finding:
    size = last - first + 1
    bounded = [(n, pool) for pool, n in needs.connections_to_one_endpoint(config) if n is not None]
    need, pool = max(bounded, default=(0, ""))
    value = f"{first} {last}"
    if need > size:
        why = f"pool {pool} may have {need:,} connections to one endpoint, and each needs a port"
        if need > 64_512:
            why += "; beyond 64,512 only more addresses help: list the endpoint under several"
        return Finding(_RANGE, value, "error", why, f"{need} ports", _WIDEN)
    if size < _USUAL:
        why = f"at most {size:,} connections to one endpoint at once, from the whole host"
        wanted = f"{_USUAL} ports or more"
        return Finding(_RANGE, value, "warning", why, wanted, _WIDEN)
    return fine(_RANGE, value, f"{size:,} connections to each endpoint")


def _collision(host: Host, taken: list[tuple[int, str]], first: int, last: int) -> Finding:
    text = host.sysctl(_RESERVED)
    if text is None:
        return unreadable(_RESERVED, "whether the listeners' ports are kept free")
    open_ones = [(p, n) for p, n in taken if not _listed(p, text)]
    if not open_ones:
        return fine(_RESERVED, text, "the listeners' ports are kept out of the range")
    port, name = min(open_ones)
    wanted = ",".join(filter(None, [text, *(str(p) for p in sorted({p for p, _ in open_ones}))]))
    return Finding(
        _RESERVED,
        text or "empty",
        "warning",
        f"port {port} of listener {name} is in {first}-{last}: while Weirgate is down, any "
        "program's outgoing connection can take it",
        wanted,
        f"sysctl -w {_RESERVED}={wanted}",
    )


def _listed(port: int, text: str) -> bool:
    for item in filter(None, text.split(",")):
        low, _, high = item.partition("-")
        if low.isdigit() and int(low) <= port <= int(high or low):
            return True
    return False


def _reuse(host: Host, size: int) -> Finding:
    mode = host.number(_REUSE)
    if mode is None:
        return unreadable(_REUSE, "how soon the port of a closed connection is used again")
    if mode == 1:
        return fine(_REUSE, mode, "ports of closed connections are used again after a second")
    return Finding(
        _REUSE,
        f"{mode}",
        "warning",
        f"a tcp listener makes a connection for each client's, and a closed one keeps its port for "
        f"{_WAIT_SECONDS} s: about {size // _WAIT_SECONDS} new ones a second to each endpoint"
        + (" that is not on this host" if mode == 2 else ""),
        "1",
        f"sysctl -w {_REUSE}=1",
    )
