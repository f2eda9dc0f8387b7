"""Durations, sizes, rates, names and secrets: units are types, never bare numbers."""

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    WithJsonSchema,
)

from weirgate.shared.config import codes
from weirgate.shared.config.base import KIND, refusal

MAX_DURATION = timedelta(days=365)
MAX_BYTES = 2**50
MAX_RATE = 10**9
MAX_COUNT = 10**9
MAX_DATAGRAM_BYTES = 64 * 2**10

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_UNITS_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?(ms|s|m|h)")
_SIZE = re.compile(r"([0-9]{1,18}) ?(B|KiB|MiB|GiB|TiB)?")
_LOOSE_SIZE = re.compile(r"([0-9]{1,18}) ?([kmgt])(?:i?b)?", re.IGNORECASE)
_RATE = re.compile(r"([0-9]{1,12})/([smh])")
_BYTE_RATE = re.compile(r"(.+)/([smh])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TOKEN = re.compile(r"[!-~]{16,256}")
_SECRET = re.compile(r"[0-9a-f]{64}")

DURATION_FORM = 'a duration such as "150ms", "2s", "1m" or "1h"'
SIZE_FORM = 'a size such as "64KiB" or "10MiB"'
RATE_FORM = 'a rate such as "100/s", "60/m" or "1000/h"'
BYTE_RATE_FORM = 'bytes per time such as "10MiB/s" or "600MiB/m"'
BEARER_FORM = (
    '16 to 256 printable characters without spaces, or "file:" and the path of a file that '
    "holds them"
)
HEX_FORM = '64 hex digits, or "file:" and the path of a file that holds them'


@dataclass(frozen=True, slots=True)
class Rate:
    """So many events per second, minute or hour."""

    count: int
    unit: str

    @property
    def per_second(self) -> float:
        """The rate as a number per second."""
        return self.count / _SECONDS[self.unit]

    @property
    def burst(self) -> int:
        """The burst where none is configured: what one second brings, at least 1."""
        return max(1, math.ceil(self.per_second))

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


@dataclass(frozen=True, slots=True)
class ByteRate:
    """So many bytes per second, minute or hour."""

    size_bytes: int
    unit: str

    @property
    def per_second(self) -> float:
        """The rate in bytes per second."""
        return self.size_bytes / _SECONDS[self.unit]

    @property
    def burst_bytes(self) -> int:
        """What may pass at once after a pause: what one second brings, or the largest datagram."""
        return max(MAX_DATAGRAM_BYTES, math.ceil(self.per_second))

    def __str__(self) -> str:
        return f"{format_size(self.size_bytes)}/{self.unit}"


def parse_duration(text: str) -> timedelta | None:
    """Read ``150ms``, ``1.5s``, ``2m``, ``1h`` or ``0``; anything else is ``None``."""
    if text == "0":
        return timedelta(0)
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
    scaled = int(whole + fraction) * _UNITS_MS[unit]
    milliseconds, rest = divmod(scaled, 10 ** len(fraction))
    if rest or milliseconds > MAX_DURATION // timedelta(milliseconds=1):
        return None
    return timedelta(milliseconds=milliseconds)


def duration(text: str) -> timedelta:
    """Read a duration that is known to be good, such as a default.

    Raises:
        ValueError: It is not.
    """
    value = parse_duration(text)
    if value is None:
        raise ValueError(text)
    return value


def format_duration(value: timedelta) -> str:
    """Write a duration in the largest unit that divides it."""
    milliseconds = to_ms(value)
    if milliseconds == 0:
        return "0"
    unit = next(u for u in ("h", "m", "s", "ms") if milliseconds % _UNITS_MS[u] == 0)
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


def to_ms(value: timedelta) -> int:
    """Return whole milliseconds."""
    return value // timedelta(milliseconds=1)


def parse_size(text: str) -> int | None:
    """Read ``10MiB`` or a bare number of bytes; anything else is ``None``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    size = int(match.group(1)) * _UNITS_BYTES[match.group(2) or "B"]
    return size if size <= MAX_BYTES else None


def format_size(value: int) -> str:
    """Write a size in the largest unit that divides it."""
    if value == 0:
        return "0"
    unit = next(u for u in ("TiB", "GiB", "MiB", "KiB", "B") if value % _UNITS_BYTES[u] == 0)
    return f"{value // _UNITS_BYTES[unit]}{unit}"


def parse_rate(text: str) -> Rate | None:
    """Read ``100/s``, ``60/m`` or ``1000/h``; anything else is ``None``."""
    match = _RATE.fullmatch(text)
    if match is None or not 1 <= int(match.group(1)) <= MAX_RATE:
        return None
    return Rate(int(match.group(1)), match.group(2))


def parse_byte_rate(text: str) -> ByteRate | None:
    """Read ``10MiB/s`` or ``600KiB/m``; anything else is ``None``."""
    match = _BYTE_RATE.fullmatch(text)
    size = parse_size(match.group(1)) if match else None
    return ByteRate(size, match.group(2)) if match and size else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if _is_whole(value) and value == 0:
        return timedelta(0)
    hint = f'add the unit: "{value}s"' if _is_whole(value) and 0 < value < 10**6 else ""
    parsed = parse_duration(value) if isinstance(value, str) else None
    if parsed is None:
        raise refusal(codes.DURATION, DURATION_FORM, hint)
    return parsed


def _above_zero(value: timedelta) -> timedelta:
    if not value:
        raise refusal(codes.DURATION, f"{DURATION_FORM}, above 0")
    return value


def _size(value: Any) -> int:
    parsed: int | None = None
    hint = ""
    if _is_whole(value):
        parsed = value if 0 <= value <= MAX_BYTES else None
    elif isinstance(value, str):
        parsed = parse_size(value)
        loose = _LOOSE_SIZE.fullmatch(value)
        hint = f'did you mean "{loose.group(1)}{loose.group(2).upper()}iB"?' if loose else ""
    if parsed is None:
        raise refusal(codes.SIZE, SIZE_FORM, hint)
    return parsed


def _rate(value: Any) -> Rate:
    if isinstance(value, Rate):
        return value
    hint = f'add the unit: "{value}/s"' if _is_whole(value) and 0 < value < 10**9 else ""
    parsed = parse_rate(value) if isinstance(value, str) else None
    if parsed is None:
        raise refusal(codes.RATE, RATE_FORM, hint)
    return parsed


def _byte_rate(value: Any) -> ByteRate:
    if isinstance(value, ByteRate):
        return value
    parsed = parse_byte_rate(value) if isinstance(value, str) else None
    if parsed is None:
        loose = _LOOSE_SIZE.fullmatch(value.partition("/")[0]) if isinstance(value, str) else None
        hint = 'a size, "/" and s, m or h; bits are eight times as many'
        if loose:
            hint = f'did you mean "{loose.group(1)}{loose.group(2).upper()}iB/s"?'
        raise refusal(codes.RATE, BYTE_RATE_FORM, hint)
    return parsed


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise refusal(codes.NAME, 'letters, digits, "_", "-" and ".", at most 64, no sign in front')
    return value


def _secret(value: SecretStr) -> SecretStr:
    if not _SECRET.fullmatch(value.get_secret_value()):
        raise refusal(codes.SECRET, HEX_FORM)
    return value


def _token(value: SecretStr) -> SecretStr:
    if not _TOKEN.fullmatch(value.get_secret_value()):
        raise refusal(codes.SECRET, BEARER_FORM)
    return value


def _absolute_path(value: Any) -> Any:
    if isinstance(value, str):
        if not value.startswith("/") or "\0" in value:
            raise refusal(codes.PATH, "an absolute path such as /run/weirgate")
        return Path(value)
    return value


def _text_schema(kind: str, *others: dict[str, Any]) -> WithJsonSchema:
    text = {"type": "string"}
    return WithJsonSchema({"anyOf": [text, *others], KIND: kind} if others else text | {KIND: kind})


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    _text_schema("duration", {"const": 0}),
]
PositiveDuration = Annotated[Duration, AfterValidator(_above_zero)]
ByteSize = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(format_size, return_type=str),
    _text_schema("size", {"type": "integer", "minimum": 0}),
]
RateValue = Annotated[
    Rate, BeforeValidator(_rate), PlainSerializer(str, return_type=str), _text_schema("rate")
]
ByteRateValue = Annotated[
    ByteRate,
    BeforeValidator(_byte_rate),
    PlainSerializer(str, return_type=str),
    _text_schema("byte rate"),
]
Name = Annotated[str, AfterValidator(_name), _text_schema("name")]
Secret = Annotated[SecretStr, AfterValidator(_secret), _text_schema("secret")]
Token = Annotated[SecretStr, AfterValidator(_token), _text_schema("secret")]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute_path), _text_schema("path")]
FileName = Annotated[str, Field(min_length=1, max_length=4096), _text_schema("file")]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
