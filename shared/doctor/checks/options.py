"""Socket options that a listener asks for and the kernel may not give."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_AVAILABLE = "net.ipv4.tcp_available_congestion_control"
_ALLOWED = "net.ipv4.tcp_allowed_congestion_control"
_FAST_OPEN = "net.ipv4.tcp_fastopen"
_SERVER_SIDE = 2
_CAP_NET_ADMIN = 12


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Look at congestion controls and Fast Open, where a listener has set them."""
    for name, listener in config.listeners.items():
        if listener.tcp.congestion is not None:
            yield _congestion(host, name, listener.tcp.congestion)
    if any(listener.tcp.fast_open for listener in config.listeners.values()):
        yield _fast_open(host)


def _congestion(host: Host, listener: str, wanted: str) -> Finding:
    available, allowed = host.words(_AVAILABLE), host.words(_ALLOWED)
    if available is None or allowed is None:
        return unreadable(_AVAILABLE, f"whether listener {listener} can have {wanted}")
    if wanted not in available:
        why = f"the kernel has not loaded {wanted}, which listener {listener} asks for"
        command = f"modprobe tcp_{wanted}"
        return Finding(_AVAILABLE, " ".join(available), "error", why, wanted, command)
    if wanted not in allowed and not host.has_capability(_CAP_NET_ADMIN):
        why = f"listener {listener} asks for {wanted}, which needs CAP_NET_ADMIN here"
        command = f'sysctl -w {_ALLOWED}="{" ".join([*allowed, wanted])}"'
        return Finding(_ALLOWED, " ".join(allowed), "error", why, wanted, command)
    return fine(_AVAILABLE, " ".join(available), f"listener {listener} can have {wanted}")


def _fast_open(host: Host) -> Finding:
    mode = host.number(_FAST_OPEN)
    if mode is None:
        return unreadable(_FAST_OPEN, "whether listeners may take data with the SYN")
    if mode & _SERVER_SIDE:
        return fine(_FAST_OPEN, mode, "listeners may take data with the SYN")
    why = "a listener sets fast_open, but the kernel has switched it off for servers"
    return Finding(
        _FAST_OPEN, f"{mode}", "error", why, "a value with bit 2",
        f"sysctl -w {_FAST_OPEN}={mode | _SERVER_SIDE}",
    )  # fmt: skip
