"""Names to addresses, against a real DNS server on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from weirgate.shared.discovery.dns import LONGEST_TTL, Answer, ResolutionError, SystemResolver
from weirgate.shared.discovery.watch import NameWatch
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Zone(asyncio.DatagramProtocol):
    """A DNS server: answers from a table of (name, kind) to (TTL, addresses)."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.queries = 0
        self.broken = False
        self.silent = False
        #: A kind of record that is asked for in vain.
        self.deaf_to = ""
        self.host = "127.0.0.1"
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self.queries += 1
        assert self._transport is not None
        if self.silent:
            return
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        if kind == self.deaf_to:
            return
        if self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) in self.records:
            ttl, addresses = self.records[name, kind]
            response.answer.append(
                dns.rrset.from_text_list(question.name, ttl, "IN", kind, addresses)
            )
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(response.to_wire(), peer)


@contextlib.asynccontextmanager
async def zone_at(host: str) -> AsyncIterator[Zone]:
    loop = asyncio.get_running_loop()
    transport, zone = await loop.create_datagram_endpoint(Zone, local_addr=(host, 0))
    zone.host, zone.port = transport.get_extra_info("sockname")
    yield zone
    transport.close()


@pytest.fixture
async def zone() -> AsyncIterator[Zone]:
    async with zone_at("127.0.0.1") as zone:
        yield zone


@contextlib.contextmanager
def resolving(zone: Zone, hosts: Path = Path("/nonexistent")) -> Iterator[SystemResolver]:
    resolver = SystemResolver(hosts=hosts, nameservers=[(zone.host, zone.port)])
    yield resolver
    resolver.close()


async def test_both_families_are_found_with_the_lower_ttl(zone: Zone) -> None:
    zone.records["app.example", "A"] = (60, ["10.0.0.2", "10.0.0.1"])
    zone.records["app.example", "AAAA"] = (30, ["fd00::1"])
    with resolving(zone) as resolver:
        answer = await resolver.resolve("app.example")
    assert answer == Answer(("10.0.0.1", "10.0.0.2", "fd00::1"), 30.0)


@pytest.mark.parametrize(("ttl", "kept"), [(0, 1.0), (86400, 300.0)])
async def test_the_ttl_is_bounded(zone: Zone, ttl: int, kept: float) -> None:
    zone.records["app.example", "A"] = (ttl, ["10.0.0.1"])
    with resolving(zone) as resolver:
        assert (await resolver.resolve("app.example")).ttl == kept


async def test_one_family_is_enough(zone: Zone) -> None:
    zone.records["six.example", "AAAA"] = (60, ["fd00::1"])
    with resolving(zone) as resolver:
        assert (await resolver.resolve("six.example")).addresses == ("fd00::1",)


async def test_an_unknown_name_and_a_broken_server_are_errors_that_say_so(zone: Zone) -> None:
    with resolving(zone) as resolver:
        with pytest.raises(ResolutionError, match=r"gone\.example: .*does not exist"):
            await resolver.resolve("gone.example")
        zone.broken = True
        with pytest.raises(ResolutionError, match=r"app\.example: .*SERVFAIL"):
            await resolver.resolve("app.example")


async def test_a_silent_server_is_given_up_in_about_two_seconds(zone: Zone) -> None:
    zone.silent = True
    loop = asyncio.get_running_loop()
    before = loop.time()
    with resolving(zone) as resolver, pytest.raises(ResolutionError):
        await resolver.resolve("app.example")
    assert loop.time() - before < 3.5
    assert zone.queries >= 2  # both families


async def test_the_hosts_file_comes_first(zone: Zone, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.1.1 other # app.example\n10.2.2.2\tApp.Example alias\nrubbish x\n")
    with resolving(zone, hosts) as resolver:
        assert (await resolver.resolve("app.example")).addresses == ("10.2.2.2",)
        assert (await resolver.resolve("alias")).addresses == ("10.2.2.2",)
    assert zone.queries == 0


async def test_localhost_is_asked_of_the_system_and_a_literal_of_nobody(zone: Zone) -> None:
    with resolving(zone) as resolver:
        assert "127.0.0.1" in (await resolver.resolve("localhost")).addresses
        assert await resolver.resolve("fd00::7") == Answer(("fd00::7",), LONGEST_TTL)
        with pytest.raises(ResolutionError, match="no-such-host-here: "):
            await resolver.resolve("no-such-host-here")
    assert zone.queries == 0


async def test_names_of_containers_are_asked_again_soon(zone: Zone) -> None:
    with resolving(zone) as resolver:
        assert (await resolver.resolve("localhost")).ttl <= 1.5
    async with zone_at("127.0.0.11") as engine:  # where the engine answers in containers
        engine.records["app.example", "A"] = (600, ["10.0.0.1"])
        with resolving(engine) as resolver:
            assert await resolver.resolve("app.example") == Answer(("10.0.0.1",), 1.5)


async def test_a_question_without_an_answer_is_told_from_a_name_without_addresses(
    zone: Zone,
) -> None:
    zone.records["app.example", "A"] = (60, ["10.0.0.1"])
    zone.records["app.example", "AAAA"] = (60, ["fd00::1"])
    zone.deaf_to = "A"
    with resolving(zone) as resolver:
        answer = await resolver.resolve("app.example")
        assert answer == Answer(("fd00::1",), 1.0, unheard="IPv4")
        zone.deaf_to = ""
        del zone.records["app.example", "A"]
        assert await resolver.resolve("app.example") == Answer(("fd00::1",), 60.0)


class Told:
    """What a watch reports."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...] | None, str]] = []

    def __call__(self, name: str, addresses: tuple[str, ...] | None, error: str) -> None:
        self.calls.append((name, addresses, error))


async def test_a_name_is_asked_again_when_its_ttl_is_over(zone: Zone) -> None:
    zone.records["app.example", "A"] = (0, ["10.0.0.1"])
    told = Told()
    with resolving(zone) as resolver:
        watch = NameWatch(resolver, told)
        watch.update(["app.example"])
        await watch.first_answers(2.0)
        assert told.calls == [("app.example", ("10.0.0.1",), "")]
        zone.records["app.example", "A"] = (0, ["10.0.0.2"])
        await eventually(lambda: told.calls[-1][1] == ("10.0.0.2",))
        zone.broken = True
        await eventually(lambda: told.calls[-1][1] is None)
        assert "SERVFAIL" in told.calls[-1][2]
        zone.broken = False
        await eventually(lambda: told.calls[-1] == ("app.example", ("10.0.0.2",), ""))
        await watch.close()


async def test_half_an_answer_takes_no_address_away(zone: Zone) -> None:
    zone.records["app.example", "A"] = (0, ["10.0.0.1"])
    zone.records["app.example", "AAAA"] = (0, ["fd00::1"])
    told = Told()
    with resolving(zone) as resolver:
        watch = NameWatch(resolver, told)
        watch.update(["app.example"])
        await watch.first_answers(2.0)
        zone.deaf_to = "A"
        zone.records["app.example", "AAAA"] = (0, ["fd00::2"])
        await eventually(lambda: "fd00::2" in (told.calls[-1][1] or ()))
        assert told.calls[-1][1:] == (("10.0.0.1", "fd00::2"), "")
        zone.deaf_to = ""
        del zone.records["app.example", "A"]
        await eventually(lambda: told.calls[-1][1] == ("fd00::2",))
        await watch.close()


async def test_the_first_answers_are_waited_for_but_not_for_ever(zone: Zone) -> None:
    zone.silent = True
    told = Told()
    with resolving(zone) as resolver:
        watch = NameWatch(resolver, told)
        watch.update(["app.example"])
        await watch.first_answers(0.05)
        assert told.calls == []
        await watch.close()


async def test_a_name_that_is_not_wanted_any_more_is_not_asked(zone: Zone) -> None:
    zone.records["a.example", "A"] = (300, ["10.0.0.1"])
    zone.records["b.example", "A"] = (300, ["10.0.0.2"])
    told = Told()
    with resolving(zone) as resolver:
        watch = NameWatch(resolver, told)
        watch.update(["a.example"])
        await watch.first_answers(2.0)
        watch.update(["b.example"])
        await watch.first_answers(2.0)
        assert [name for name, *_ in told.calls] == ["a.example", "b.example"]
        watch.update([])
        await watch.first_answers(2.0)
        await watch.close()
