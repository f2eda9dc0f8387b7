"""The PROXY header that a check sends to an endpoint which waits for one."""

import asyncio
import ipaddress

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: LOCAL: Weirgate speaks for itself, and not for a client.
_LOCAL = _SIGNATURE + b"\x20\x00\x00\x00"


def introduction(version: str, transport: asyncio.BaseTransport) -> bytes:
    """Return the header of a check's own connection; nothing for ``off``.

    Version 1 has no LOCAL, and its authors advise against UNKNOWN in checks: it names the
    connection's own addresses.
    """
    if version == "v2":
        return _LOCAL
    own, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    if version != "v1" or not own or not peer:
        return b""
    family = ipaddress.ip_address(own[0]).version
    return f"PROXY TCP{family} {own[0]} {peer[0]} {own[1]} {peer[1]}\r\n".encode()
