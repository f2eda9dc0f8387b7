"""Units and addresses, one by one."""

from datetime import timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from weirgate.shared.config import ByteSize, Duration
from weirgate.shared.config.addresses import Bind, EndpointAddress, Network, is_loopback, overlaps
from weirgate.shared.config.http import HostPattern
from weirgate.shared.config.match import PathText, parse_path
from weirgate.shared.config.scalars import (
    duration,
    format_duration,
    format_size,
    parse_rate,
    to_ms,
)

DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
SIZE: TypeAdapter[int] = TypeAdapter(ByteSize)
BIND: TypeAdapter[str] = TypeAdapter(Bind)
ENDPOINT: TypeAdapter[str] = TypeAdapter(EndpointAddress)
NETWORK: TypeAdapter[str] = TypeAdapter(Network)
HOST: TypeAdapter[str] = TypeAdapter(HostPattern)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("150ms", 150),
        ("2s", 2000),
        ("1m", 60_000),
        ("1h", 3_600_000),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        ("1.5s", 1500),
        ("0.25m", 15_000),
        ("8760h", 365 * 86_400_000),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: object, milliseconds: int) -> None:
    assert to_ms(DURATION.validate_python(text)) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        5,
        1.5,
        "1 s",
        "1S",
        "-1s",
        "1d",
        "1h30m",
        "8761h",
        "0.1ms",
        "1s\n",
        "\u0661s",
        None,
        True,
        [],
    ],
)
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValidationError):
        DURATION.validate_python(text)


def test_a_duration_is_written_in_its_largest_unit() -> None:
    texts = ["0", "1ms", "1500ms", "2s", "90s", "2m", "3h", "24h"]
    assert [format_duration(duration(text)) for text in texts] == texts


def test_a_bad_default_is_found_when_the_module_is_imported() -> None:
    with pytest.raises(ValueError, match="2 seconds"):
        duration("2 seconds")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("64KiB", 65536),
        ("10MiB", 10 * 2**20),
        ("1 GiB", 2**30),
        ("1TiB", 2**40),
        (2**50, 2**50),
    ],
)
def test_a_size_is_bytes_or_a_binary_unit(text: object, size: int) -> None:
    assert SIZE.validate_python(text) == size
    assert SIZE.validate_python(format_size(size)) == size


@pytest.mark.parametrize(
    "text", ["10MB", "10k", "1.5MiB", -1, "-1", 2**50 + 1, "9999TiB", 1.0, True, None, ""]
)
def test_anything_else_is_no_size(text: object) -> None:
    with pytest.raises(ValidationError):
        SIZE.validate_python(text)


@pytest.mark.parametrize(
    ("text", "per_second", "burst"), [("100/s", 100.0, 100), ("90/m", 1.5, 2), ("1/h", 1 / 3600, 1)]
)
def test_a_rate_knows_its_default_burst(text: str, per_second: float, burst: int) -> None:
    rate = parse_rate(text)
    assert rate is not None
    assert (rate.per_second, rate.burst, str(rate)) == (per_second, burst, text)


@pytest.mark.parametrize(
    "text", ["", "100", "0/s", "-1/s", "1.5/s", "1/d", "1 / s", "1/s ", "10000000000/s"]
)
def test_anything_else_is_no_rate(text: str) -> None:
    assert parse_rate(text) is None


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::]:443", "[::]:443"),
        ("[0:0::1]:080", "[::1]:80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_a_bind_is_written_in_one_way(text: str, bind: str) -> None:
    assert BIND.validate_python(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "0.0.0.0",
        "0.0.0.0:",
        "0.0.0.0:65536",
        "::1:80",
        "[127.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "010.0.0.1:80",
        "unix:",
        "unix:a",
        "unix:/" + "a" * 107,
        "unix:/a\0b",
        "a:80",
        "[]:80",
        "1:2:3",
    ],
)
def test_anything_else_is_no_bind(text: str) -> None:
    with pytest.raises(ValidationError):
        BIND.validate_python(text)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("0.0.0.0:80", "0.0.0.0:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", False),
        ("0.0.0.0:80", "0.0.0.0:81", True),
        ("0.0.0.0:80", "[::]:80", True),
        ("[::]:80", "[::1]:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("10.0.0.1:80", "10.0.0.2:80", True),
        ("unix:/a", "unix:/a", False),
        ("unix:/a:80", "0.0.0.0:80", True),
    ],
)
def test_overlap_says_what_the_kernel_would(one: str, other: str, *, both: bool) -> None:
    assert overlaps(one, other) is overlaps(other, one) is not both


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("App.Example:80", "app.example:80"),
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        ("localhost:1", "localhost:1"),
        ("[2001:DB8::0]:1", "[2001:db8::]:1"),
        ("my_app-1:65535", "my_app-1:65535"),
    ],
)
def test_an_endpoint_is_written_in_one_way(text: str, endpoint: str) -> None:
    assert ENDPOINT.validate_python(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "app:0",
        "app:65536",
        "a..b:80",
        "-a:80",
        "a" * 64 + ":80",
        "10.0.0:80",
        "a/b:80",
        "[a]:80",
    ],
)
def test_anything_else_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValidationError):
        ENDPOINT.validate_python(text)


def test_an_address_is_a_network_of_one() -> None:
    assert NETWORK.validate_python("10.0.0.1") == "10.0.0.1/32"
    assert NETWORK.validate_python("2001:DB8::/32") == "2001:db8::/32"


def test_loopback_is_known_in_both_families() -> None:
    assert is_loopback("127.3.2.1:80")
    assert is_loopback("[::1]:80")
    assert not is_loopback("0.0.0.0:80")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Shop.Example", "shop.example"),
        ("shop.example.", "shop.example"),
        ("*.Example", "*.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "[::1]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.Example.", "*.xn--bcher-kva.example"),
        ("bu\u0308cher\u3002example", "xn--bcher-kva.example"),
        ("ΟΔΟΣ.example", "xn--pxavbq.example"),  # no final sigma: nobody has written one
        ("STRAßE.example", "xn--strae-oqa.example"),
        ("_dmarc.bücher.example", "_dmarc.xn--bcher-kva.example"),
        ("\uff110.0.0.1", "10.0.0.1"),
    ],
)
def test_a_host_is_matched_in_lower_case(text: str, host: str) -> None:
    assert HOST.validate_python(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "*.*.a", "a.*", "::1", "*.10.0.0.1", "*.[::1]", "a b", "a/b"),
        *("☃.example", "ü*.example", "xn--ü.example", "ü..example", "ü" * 80, "a\u200db", "\xad"),
        *("ü\uff0fx", "℀.example", "\ud800", "אa.example", ".".join(["ü"] * 60)),
    ],
)
def test_anything_else_is_no_host(text: str) -> None:
    with pytest.raises(ValidationError):
        HOST.validate_python(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("/", "exact", "/"),
        ("/x", "exact", "/x"),
        ("/x/", "exact", "/x/"),
        ("/x/*", "prefix", "/x"),
        ("/*", "prefix", ""),
        ("/a%20b", "exact", "/a%20b"),
        ("/.well-known/*", "prefix", "/.well-known"),
    ],
)
def test_a_path_is_exact_or_a_prefix(text: str, kind: str, value: str) -> None:
    path = parse_path(text)
    assert isinstance(path, PathText)
    assert (path.kind, path.value) == (kind, value)
