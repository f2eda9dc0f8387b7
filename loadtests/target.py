"""Keeps load away from other people's machines: loopback and private addresses, or a clear word."""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from loadtests.plan import Target

#: The networks of RFC 1918 and RFC 4193, and link-local: what containers and clusters live in.
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10")
)


class TargetError(Exception):
    """The target is not one that load may go to; the text says why."""


def check(target: Target, *, allow_public: bool = False) -> None:
    """Refuse a target one of whose addresses is neither of this host nor private.

    Raises:
        TargetError: It is public, or has no address.
    """
    for host in [target.host, *_hosts(target.admin.values())]:
        for found in _addresses(host):
            if not allow_public and not _is_ours(found):
                raise TargetError(
                    f"{host} is {found}, a public address: load tests go to machines of your own; "
                    "if that one is yours, say --allow-public-target"
                )


def _hosts(urls: Iterable[str]) -> list[str]:
    hosts = [urlsplit(url).hostname for url in urls]
    if not all(hosts):
        raise TargetError("an admin URL has no host; it looks like http://127.0.0.1:9900")
    return [host for host in hosts if host]


def _addresses(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise TargetError(f"{host} has no address: {error}") from error
    return {str(entry[4][0]).partition("%")[0] for entry in found}


def _is_ours(text: str) -> bool:
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found.is_loopback or any(
        found.version == network.version and found in network for network in PRIVATE
    )
