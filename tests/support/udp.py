"""UDP for the tests: an application that answers with its name, and clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

LOCAL = "127.0.0.1"
Address = tuple[str, int]


@dataclass
class UdpServer(asyncio.DatagramProtocol):
    """Answers every datagram ``answers`` times with its port, a colon and the datagram."""

    answers: int = 1
    received: list[bytes] = field(default_factory=list)
    peers: set[Address] = field(default_factory=set)
    transport: asyncio.DatagramTransport = field(init=False, repr=False)

    @property
    def port(self) -> int:
        return int(self.transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.received.append(data)
        self.peers.add(addr)
        for _ in range(self.answers):
            self.transport.sendto(b"%d:" % self.port + data, addr)


@contextlib.asynccontextmanager
async def udp_server(*, answers: int = 1, port: int = 0) -> AsyncIterator[UdpServer]:
    """Run such an application on loopback."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: UdpServer(answers), local_addr=(LOCAL, port)
    )
    try:
        yield server
    finally:
        transport.close()


class UdpClient(asyncio.DatagramProtocol):
    """A client with an address of its own; what comes back waits in a queue."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.inbox.put_nowait(data)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data)

    async def receive(self, within_s: float = 5.0) -> bytes:
        """Return the next datagram.

        Raises:
            TimeoutError: None came.
        """
        async with asyncio.timeout(within_s):
            return await self.inbox.get()

    async def ask(self, data: bytes, within_s: float = 5.0) -> bytes:
        """Send one datagram and return the next that comes back."""
        self.send(data)
        return await self.receive(within_s)

    async def ask_until_answered(self, data: bytes, tries: int = 20) -> bytes:
        """Ask again whenever no answer comes, as clients of UDP do.

        Raises:
            TimeoutError: No answer came at all.
        """
        for _ in range(tries - 1):
            with contextlib.suppress(TimeoutError):
                return await self.ask(data, 0.5)
        return await self.ask(data, 0.5)


@contextlib.asynccontextmanager
async def udp_client(
    port: int, *, host: str = LOCAL, source: str | None = None
) -> AsyncIterator[UdpClient]:
    """Open a client towards a port of this host."""
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        UdpClient, remote_addr=(host, port), local_addr=(source, 0) if source else None
    )
    try:
        yield client
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def udp_clients(count: int, port: int) -> AsyncIterator[list[UdpClient]]:
    """Open many."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(udp_client(port)) for _ in range(count)]
