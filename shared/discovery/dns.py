"""One name to its addresses and how long they hold.

Order: ``/etc/hosts``; the system's resolver for names without a dot and for localhost (container
networks and search domains answer there); then DNS itself, which alone tells the TTL.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from weirgate.shared.addresses import is_literal
from weirgate.shared.errors import WeirgateError

if TYPE_CHECKING:
    import dns.asyncresolver

SHORTEST_TTL, LONGEST_TTL = 1.0, 300.0
#: For what stands in /etc/hosts.
HOSTS_TTL = 5.0
#: For answers of the system's resolver, which come without a TTL: they are names of containers,
#: and those come and go.
SYSTEM_TTL = 1.5
#: Docker's own name server in containers. Whatever it answers has the TTL 600, which means nothing.
_DOCKER_DNS = "127.0.0.11"
Unheard = Literal["", "IPv4", "IPv6"]
_FAMILIES: tuple[Unheard, Unheard] = ("IPv4", "IPv6")
_TRY_SECONDS = 1.0
_LIFETIME_SECONDS = 2.0


class ResolutionError(WeirgateError):
    """A name gave no address; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses, IPv4 first and sorted, so that equal answers compare equal."""

    addresses: tuple[str, ...]
    ttl: float
    #: The family that was asked for in vain: whether the name has such addresses is not known.
    unheard: Unheard = ""


class Resolver(Protocol):
    """Anything that turns a name into addresses."""

    async def resolve(self, name: str) -> Answer:
        """Return a non-empty answer, or raise ``ResolutionError``."""


class SystemResolver:
    """The resolver described at the top of this module."""

    def __init__(
        self,
        *,
        hosts: Path = Path("/etc/hosts"),
        nameservers: list[tuple[str, int]] | None = None,
    ) -> None:
        self._hosts = hosts
        self._nameservers = nameservers
        self._dns: dns.asyncresolver.Resolver | None = None
        # The C library's resolver may hang for long; its threads are nobody else's.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="getaddrinfo")

    async def resolve(self, name: str) -> Answer:
        """Return the name's addresses, or raise ``ResolutionError``."""
        if is_literal(name):
            return Answer((name,), LONGEST_TTL)
        listed = await asyncio.to_thread(_in_hosts, self._hosts, name)
        if listed:
            return Answer(_ordered(listed), HOSTS_TTL)
        plain = name.rstrip(".")
        if "." not in plain or plain.endswith(".localhost"):
            return await self._system(plain)
        return await self._query(name)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _system(self, name: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LIFETIME_SECONDS):
                found = await loop.run_in_executor(self._threads, _getaddrinfo, name)
        except TimeoutError:
            raise ResolutionError(f"{name}: no answer from the system's resolver") from None
        except OSError as error:
            raise ResolutionError(f"{name}: {error.strerror or error}") from error
        return Answer(_ordered(found), SYSTEM_TTL)

    async def _query(self, name: str) -> Answer:
        import dns.exception
        import dns.resolver

        resolver = self._resolver()
        both = await asyncio.gather(
            *(
                resolver.resolve(name, kind, raise_on_no_answer=False, search=True)
                for kind in ("A", "AAAA")
            ),
            return_exceptions=True,
        )
        found: set[str] = set()
        ttl = LONGEST_TTL
        failure: BaseException | None = None
        unheard: Unheard = ""
        for family, answer in zip(_FAMILIES, both, strict=True):
            if isinstance(answer, dns.resolver.Answer):
                if answer.rrset is not None:
                    found |= {record.address for record in answer}
                    ttl = min(ttl, float(answer.rrset.ttl))
                if answer.nameserver == _DOCKER_DNS:
                    ttl = min(ttl, SYSTEM_TTL)
            elif isinstance(answer, dns.exception.DNSException | OSError):
                failure = failure or answer
                if not isinstance(answer, dns.resolver.NXDOMAIN):
                    unheard, ttl = family, SHORTEST_TTL
            else:
                raise answer
        if found:
            return Answer(_ordered(found), max(ttl, SHORTEST_TTL), unheard)
        raise ResolutionError(f"{name}: {failure or 'the name has no address'}") from failure

    def _resolver(self) -> "dns.asyncresolver.Resolver":
        """Make the DNS client on first use: most configurations name no host."""
        if self._dns is None:
            import dns.asyncresolver
            import dns.nameserver
            import dns.resolver

            try:
                self._dns = dns.asyncresolver.Resolver(configure=self._nameservers is None)
            except dns.resolver.NoResolverConfiguration as error:
                raise ResolutionError(f"no name server is configured: {error}") from error
            if self._nameservers is not None:
                self._dns.nameservers = [
                    dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers
                ]
            self._dns.timeout = _TRY_SECONDS
            self._dns.lifetime = _LIFETIME_SECONDS
        return self._dns


def _in_hosts(path: Path, name: str) -> set[str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if is_literal(address) and name.rstrip(".").lower() in (n.lower() for n in names):
            found.add(address)
    return found


def _getaddrinfo(name: str) -> set[str]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


def completed(answer: Answer, before: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses of an answer, and those from before that it may only have missed."""
    if not answer.unheard:
        return answer.addresses
    missed = {address for address in before if (":" in address) == (answer.unheard == "IPv6")}
    return _ordered({*answer.addresses, *missed})


def _ordered(addresses: set[str]) -> tuple[str, ...]:
    return tuple(sorted(addresses, key=lambda address: (":" in address, address)))
