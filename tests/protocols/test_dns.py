"""DNS: dig against a real name server, UDP and TCP on one port, each question a session."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import services
from tests.support.peers import tool
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MANY = [f"10.1.0.{number}" for number in range(1, 101)]
QUESTIONS = 200


@dataclass(frozen=True)
class Answer:
    """What dig said of one answer."""

    text: str
    errors: str

    @property
    def addresses(self) -> list[str]:
        return re.findall(r"\sA\s+([0-9.]+)", self.text)

    @property
    def flags(self) -> list[str]:
        (found,) = re.findall(r"^;; flags: ([a-z ]+);", self.text, re.MULTILINE)
        return str(found).split()

    @property
    def bytes(self) -> int:
        (found,) = re.findall(r"MSG SIZE  rcvd: (\d+)", self.text)
        return int(found)


@dataclass(frozen=True)
class Site:
    weirgate: Running

    async def dig(self, *arguments: str, tries: int = 1) -> Answer:
        where = ("@127.0.0.1", "-p", str(self.weirgate.port("udp")))
        options = (f"+tries={tries}", "+time=5")
        done = await finished(tool("dig"), *where, *options, *arguments, within_s=60)
        assert done.code == 0, done.text
        return Answer(done.out.decode(), done.errors.decode())

    async def sessions(self) -> list[dict[str, object]]:
        """Return the lines of the sessions that have ended, when none is open any more."""

        async def ended() -> bool:
            opened = await self.weirgate.metric("weirgate_edge_accepted_total", listener="udp")
            return len(self._lines()) == opened

        await eventually(ended, what="the end of every session")
        return self._lines()

    def _lines(self) -> list[dict[str, object]]:
        return [entry for entry in self.weirgate.access.entries() if entry["protocol"] == "udp"]


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    tool("dig")
    directory = tmp_path_factory.mktemp("dns")
    records = {"one.test": ["10.0.0.1"], "many.test": MANY}
    async with services.dnsmasq(directory, records) as peer:
        config = Configuration().listen("udp", protocol="udp", pool="names", responses=1)
        config.listen("tcp", protocol="tcp", pool="names").pool("names", peer.port)
        config.data["listeners"]["tcp"]["bind"] = config.data["listeners"]["udp"]["bind"]
        async with running(config) as weirgate:
            yield Site(weirgate)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_a_name_by_either_protocol(site: Site, transport: str) -> None:
    answer = await site.dig(transport, "one.test")
    assert answer.addresses == ["10.0.0.1"]
    assert ("(TCP)" if transport == "+tcp" else "(UDP)") in answer.text


async def test_a_large_answer_in_one_datagram(site: Site) -> None:
    answer = await site.dig("+bufsize=4096", "+ignore", "many.test")
    assert sorted(answer.addresses) == sorted(MANY)
    assert "tc" not in answer.flags
    assert answer.bytes > 1500
    assert "(UDP)" in answer.text


async def test_a_truncated_answer_is_asked_for_again_by_tcp(site: Site) -> None:
    answer = await site.dig("+noedns", "+ignore", "many.test")
    assert "tc" in answer.flags
    assert answer.bytes <= 512
    answer = await site.dig("+noedns", "many.test")
    assert ";; Truncated, retrying in TCP mode." in answer.text
    assert "tc" not in answer.flags
    assert sorted(answer.addresses) == sorted(MANY)


async def test_several_questions_on_one_tcp_connection(site: Site) -> None:
    answer = await site.dig("+tcp", "+keepopen", "one.test", "many.test", "one.test")
    assert answer.addresses.count("10.0.0.1") == 2
    assert len(answer.addresses) == 102


async def test_each_question_is_a_session_that_ends_with_its_answer(
    site: Site, tmp_path: Path
) -> None:
    before = len(await site.sessions())
    questions = tmp_path / "questions"
    questions.write_text("one.test\n" * QUESTIONS)
    answer = await site.dig("-f", str(questions), "+notcp", tries=3)
    assert answer.addresses == ["10.0.0.1"] * QUESTIONS
    lines = (await site.sessions())[before:]
    assert len(lines) >= QUESTIONS
    assert {line["reason"] for line in lines} == {""}
    answered = [line for line in lines if (line["datagrams_in"], line["datagrams_out"]) == (1, 1)]
    assert len(answered) >= QUESTIONS
