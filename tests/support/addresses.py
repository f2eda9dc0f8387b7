"""Addresses as a configuration writes them, and whether somebody listens there."""

import socket

from weirgate.shared.testing import free_port


def local(port: int | None = None) -> str:
    """Return an address of this host, with a free port where none is given."""
    return f"127.0.0.1:{port or free_port()}"


def connects(address: str) -> bool:
    """Say whether a TCP connection to ``host:port`` or ``[host]:port`` is taken."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(5)
        return caller.connect_ex((host.strip("[]"), int(port))) == 0
