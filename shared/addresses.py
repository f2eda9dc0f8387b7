"""Addresses as text: ``host:port``, ``[v6]:port`` or ``unix:/path``, and prefixes of sources."""

import ipaddress
from typing import TypeAlias

UNIX = "unix:"
PREFIX_FORM = 'an address or a prefix such as "192.0.2.7", "10.0.0.0/8" or "2001:db8::/32"'
_MAPPED_BITS = 96

Prefix: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def split_address(address: str) -> tuple[str, int]:
    """Split into host and port; a Unix path comes back whole, with port 0."""
    if address.startswith(UNIX):
        return address, 0
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Join a host and a port, with brackets where the host is IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_literal(host: str) -> bool:
    """Say whether a host is an IP address, and so needs no name service."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_prefix(text: str) -> Prefix | None:
    """Read an address or a prefix, host bits masked; anything else is ``None``.

    IPv4 in IPv6 (``::ffff:10.0.0.1``) becomes IPv4: by that a listener knows such a client.
    """
    if "%" in text:  # the edge knows no zones
        return None
    try:
        prefix = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(prefix, ipaddress.IPv6Network) and prefix.prefixlen >= _MAPPED_BITS:
        mapped = prefix.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, prefix.prefixlen - _MAPPED_BITS))
    return prefix
