"""Lists of networks in files: what is read, what is refused, and how long a long one takes."""

import ipaddress
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weirgate.shared.config import ConfigErrors, compile_snapshot, load
from weirgate.shared.config.compiler import Snapshot
from weirgate.shared.config.lists import MAX_PREFIXES, _normal
from weirgate.shared.config.watched import ABSENT, signature

SECRET = "0" * 64
YAML = 'listeners: {web: {bind: "127.0.0.1:80", deny: "file:deny.txt"}}\nroutes: [{respond: {}}]\n'


def compiled(directory: Path, text: str | bytes, yaml: str = YAML) -> Snapshot:
    (directory / "w.yaml").write_text(yaml)
    data = text.encode() if isinstance(text, str) else text
    (directory / "deny.txt").write_bytes(data)
    return compile_snapshot(load(directory / "w.yaml", {}), cookie_secret=SECRET)


def denied(snapshot: Snapshot) -> list[str]:
    listeners: list[dict[str, list[str]]] = snapshot.value["listeners"]
    return listeners[0]["deny"]


def test_a_snapshot_says_which_files_it_was_made_of(tmp_path: Path) -> None:
    snapshot = compiled(tmp_path, "10.0.0.0/8\n")
    assert dict(snapshot.files) == {tmp_path / "deny.txt": signature(tmp_path / "deny.txt")}
    assert signature(tmp_path / "deny.txt") != ABSENT == signature(tmp_path / "missing.txt")


def test_comments_and_order_of_equal_entries_do_not_change_the_hash(tmp_path: Path) -> None:
    plain = compiled(tmp_path, "10.0.0.0/8\n2001:db8::/32\n")
    dressed = compiled(tmp_path, "\ufeff# all\n10.0.0.0/8\n\n2001:DB8::/32 # v6\n10.0.0.0/8")
    assert plain.hash == dressed.hash


def test_a_list_of_the_greatest_length_is_taken_and_one_more_is_not(tmp_path: Path) -> None:
    entries = [f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(MAX_PREFIXES + 1)]
    began = time.monotonic()
    assert len(denied(compiled(tmp_path, "\n".join(entries[:-1])))) == MAX_PREFIXES
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigErrors) as refused:
        compiled(tmp_path, "\n".join(entries))
    (problem,) = refused.value.problems
    assert (problem.code, problem.got) == ("WG-C056", "100,001 networks")


def test_a_file_beyond_its_size_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as refused:
        compiled(tmp_path, b"#" * (8 * 2**20 + 1))
    assert "beyond 8 MiB" in refused.value.problems[0].got


def test_a_mistake_in_a_file_used_twice_is_told_once(tmp_path: Path) -> None:
    other = ', b: {bind: "127.0.0.1:81", deny: "file:deny.txt"}}\n'
    with pytest.raises(ConfigErrors) as refused:
        compiled(tmp_path, "10.0.0.0/8\nten\n", YAML.replace("}\n", other, 1))
    (problem,) = refused.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "deny.txt"), 2)


ADDRESSES = st.ip_addresses()


@given(address=ADDRESSES, length=st.integers(0, 128))
@settings(max_examples=300)
def test_the_fast_reader_agrees_with_the_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network((address, length), strict=False)
    read = _normal(str(network))
    assert read is not None
    assert ipaddress.ip_network(read) == network
    if network.network_address != address:
        assert _normal(f"{address}/{length}") is None


@given(st.text(alphabet="0123456789abcdef.:/+-_ x", max_size=24))
@settings(max_examples=500)
def test_whatever_the_fast_reader_takes_the_library_takes(text: str) -> None:
    read = _normal(text)
    if read is not None:
        assert ipaddress.ip_network(text) == ipaddress.ip_network(read)
