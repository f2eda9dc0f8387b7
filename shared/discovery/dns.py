"""One name to its addresses and how long they hold.

Order: ``/etc/hosts``; the system's resolver for names without a dot and for localhost (container
networks and search domains answer there); then DNS itself, which alone tells the TTL.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from weirgate.shared.addresses import is_literal
from weirgate.shared.errors import WeirgateError

if TYPE_CHECKING:
    import dns.asyncresolver

SHORTEST_TTL, LONGEST_TTL = 1.0, 300.0
#: For answers that come without a TTL.
SYSTEM_TTL = 5.0
_TRY_SECONDS = 1.0
_LIFETIME_SECONDS = 2.0


class ResolutionError(WeirgateError):
    """A name gave no address; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses, IPv4 first and sorted, so that equal answers compare equal."""

    addresses: tuple[str, ...]
    ttl: float


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
            return Answer(_ordered(listed), SYSTEM_TTL)
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
        for answer in both:
            if isinstance(answer, dns.resolver.Answer):
                if answer.rrset is not None:
                    found |= {record.address for record in answer}
                    ttl = min(ttl, float(answer.rrset.ttl))
            elif isinstance(answer, dns.exception.DNSException | OSError):
                failure = failure or answer
            else:
                raise answer
        if found:
            return Answer(_ordered(found), max(ttl, SHORTEST_TTL))
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


def _ordered(addresses: set[str]) -> tuple[str, ...]:
    return tuple(sorted(addresses, key=lambda address: (":" in address, address)))
