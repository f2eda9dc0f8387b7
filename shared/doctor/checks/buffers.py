"""Socket buffers: the kernel silently gives less than is asked for."""

from collections.abc import Iterator

from weirgate.shared.config import Config
from weirgate.shared.doctor import needs
from weirgate.shared.doctor.finding import Finding, fine, unreadable
from weirgate.shared.doctor.host import Host

_CAPS = {"receive_buffer": "net.core.rmem_max", "send_buffer": "net.core.wmem_max"}
#: What bursts of datagrams want; the usual default holds some 100 full ones.
_UDP_BYTES = 4 * 2**20


def check(host: Host, config: Config) -> Iterator[Finding]:
    """Compare the caps with the largest buffer that a listener sets, and with datagrams."""
    datagrams = bool(needs.of_protocol(config, "udp"))
    for option, cap in _CAPS.items():
        asked = {n: int(getattr(v.tcp, option)) for n, v in config.listeners.items()}
        name, size = max(asked.items(), key=lambda item: item[1], default=("", 0))
        if size or datagrams:
            yield _cap(host, option, cap, name, size, datagrams=datagrams)


def _cap(host: Host, option: str, cap: str, name: str, size: int, *, datagrams: bool) -> Finding:
    most = host.number(cap)
    if most is None:
        return unreadable(cap, f"whether {option} is given whole")
    if size > most:
        why = f"listener {name} sets a {option} of {size}, and gets this"
        return Finding(cap, f"{most}", "error", why, f"at least {size}", f"sysctl -w {cap}={size}")
    if datagrams and most < _UDP_BYTES:
        why = "a burst of datagrams beyond the buffer is lost, and the kernel counts it only"
        command = f"sysctl -w {cap}={_UDP_BYTES}"
        return Finding(cap, f"{most}", "warning", why, f"at least {_UDP_BYTES}", command)
    return fine(cap, most, "every listener gets the buffers it sets")
