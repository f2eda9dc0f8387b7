"""The supervisor's table of shunned sources, by a clock that the test sets."""

import json

import pytest

from weirgate.shared.addresses import Prefix, parse_prefix
from weirgate.shared.supervisor import shuns
from weirgate.shared.supervisor.shuns import ShunError, ShunTable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> ShunTable:
    return ShunTable(clock, lambda: clock.now + 1_000_000)


def prefix(text: str) -> Prefix:
    found = parse_prefix(text)
    assert found is not None
    return found


def sources(table: ShunTable) -> list[str]:
    return [entry["source"] for entry in table.shown()]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.1/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
    ],
)
def test_a_source_is_read_as_the_network_that_it_is(text: str, read: str) -> None:
    assert str(prefix(text)) == read


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0", "10.0.0.0/33", " 10.0.0.1", "fe80::1%eth0", "10.0.0.1:80", "1/8"]
)
def test_what_is_no_source_is_none(text: str) -> None:
    assert parse_prefix(text) is None


def test_an_entry_says_who_why_and_how_long_and_ends_by_itself(
    table: ShunTable, clock: Clock
) -> None:
    table.add(prefix("10.0.0.1"), 5, by="alice", reason="loud")
    table.add(prefix("10.0.0.0/8"), 60, by="bob")
    clock.now += 2
    first, second = table.shown()
    assert first == {
        "source": "10.0.0.1/32", "by": "alice", "reason": "loud",
        "since": 1_000_100.0, "until": 1_000_105.0, "seconds_left": 3.0,
    }  # fmt: skip
    assert (second["source"], second["reason"], second["seconds_left"]) == ("10.0.0.0/8", "", 58.0)
    assert json.loads(table.encoded()) == [
        {"source": "10.0.0.1/32", "ttl_ms": 3000},
        {"source": "10.0.0.0/8", "ttl_ms": 58_000},
    ]
    clock.now += 3
    assert sources(table) == ["10.0.0.0/8"]
    assert json.loads(table.encoded()) == [{"source": "10.0.0.0/8", "ttl_ms": 55_000}]
    assert not table.remove(prefix("10.0.0.1"))


def test_a_clock_that_is_set_back_prolongs_nothing(clock: Clock) -> None:
    wall = Clock()
    table = ShunTable(clock, wall)
    table.add(prefix("10.0.0.1"), 5, by="a")
    wall.now = 0
    clock.now += 5
    assert table.shown() == []


def test_adding_again_replaces(table: ShunTable, clock: Clock) -> None:
    table.add(prefix("10.0.0.1"), 5, by="alice", reason="loud")
    table.add(prefix("10.0.0.2"), 5, by="alice")
    clock.now += 1
    table.add(prefix("::ffff:10.0.0.1"), 60, by="bob", reason="still loud")
    assert sources(table) == ["10.0.0.2/32", "10.0.0.1/32"]
    assert table.shown()[1]["seconds_left"] == 60
    assert table.shown()[1]["by"] == "bob"


def test_removing_says_whether_it_was_there(table: ShunTable) -> None:
    table.add(prefix("10.0.0.1"), 5, by="a")
    assert not table.remove(prefix("10.0.0.0/8"))  # others it holds stay
    assert table.remove(prefix("10.0.0.1"))
    assert not table.remove(prefix("10.0.0.1"))
    assert table.encoded() == b"[]"


def test_a_full_table_takes_no_more_but_what_it_has(
    table: ShunTable, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuns, "MAX_SHUNS", 2)
    table.add(prefix("10.0.0.1"), 5, by="a")
    table.add(prefix("10.0.0.2"), 60, by="a")
    with pytest.raises(ShunError, match="2 sources are shunned already"):
        table.add(prefix("10.0.0.3"), 5, by="a")
    table.add(prefix("10.0.0.2"), 60, by="b")
    clock.now += 5
    table.add(prefix("10.0.0.3"), 5, by="a")
    assert sources(table) == ["10.0.0.2/32", "10.0.0.3/32"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0/0", "everybody"),
        ("::/0", "everybody"),
        ("::ffff:0:0/96", "everybody"),
        ("127.0.0.0/8", "this host itself"),
        ("0.0.0.0/1", "this host itself"),
        ("::/64", "this host itself"),
    ],
)
def test_everybody_and_this_host_need_force(table: ShunTable, text: str, why: str) -> None:
    with pytest.raises(ShunError, match=why):
        table.add(prefix(text), 5, by="a")
    assert sources(table) == []
    table.add(prefix(text), 5, by="a", force=True)
    assert sources(table) == [str(prefix(text))]


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "127.0.0.7", "128.0.0.0/1"])
def test_one_address_is_meant(table: ShunTable, text: str) -> None:
    table.add(prefix(text), 5, by="a")
    assert len(sources(table)) == 1
