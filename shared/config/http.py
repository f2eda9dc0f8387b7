"""The HTTP words of the schema: hosts, methods, headers, statuses and redirect targets."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import is_host_name
from weirgate.shared.config.base import KIND, refusal, repeated
from weirgate.shared.config.names import ascii_host
from weirgate.shared.config.suggest import did_you_mean

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(r"(?:[a-z][a-z0-9+.-]*:|/|\{scheme\}:)[!-~]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{3})-([0-9]{3})")

#: How much of what IDNA says is shown: it quotes the label.
_HINT = 120
PLACEHOLDERS = ("scheme", "host", "path", "query")
BODILESS = frozenset({204, 205, 304})
# What frames a message or belongs to one connection: written anew from what is really sent.
OWNED_HEADERS = frozenset(
    {
        "connection", "content-length", "keep-alive", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip

HOST_FORM = '"shop.example" or "*.shop.example"'
NAME_FORM = "a name of letters, digits and -"
STATUS_RANGE_FORM = 'a status such as 200, a range such as "200-399", or a list of them'


def _host(text: str) -> str:
    try:
        host = ascii_host(text)
    except UnicodeError as error:
        hint = _host_hint(text) or f"IDNA: {str(error)[:_HINT]}"
        raise refusal(codes.HOST, HOST_FORM, hint) from None
    name = host.removeprefix("*.")
    if is_host_name(name) or (not host.startswith("*.") and _is_ip(host)):
        return host
    raise refusal(codes.HOST, HOST_FORM, _host_hint(text))


def _server_name(text: str) -> str:
    if text == "*":
        raise refusal(codes.HOST, HOST_FORM, "for every other name write default: pool")
    host = _host(text)
    if _is_ip(host):
        hint = "clients ask for names only: an address gets the default"
        raise refusal(codes.HOST, HOST_FORM, hint)
    return host


def _server_name_or_all(text: str) -> str:
    return text if text == "*" else _server_name(text)


def _is_ip(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return (address.version == 6) == (host.startswith("[") and host.endswith("]"))


def _host_hint(text: str) -> str:
    if text == "*":
        return "leave host out to match every host"
    bare, colon, port = text.rpartition(":")
    if colon and port.isdigit() and is_host_name(_compiled(bare).removeprefix("*.")):
        return f'hosts are matched without the port: "{bare}"'
    return "a wildcard stands in front, as a whole label" if "*" in text.removeprefix("*.") else ""


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        upper = text.upper()
        hint = f'did you mean "{upper}"?' if _METHOD.fullmatch(upper) else ""
        raise refusal(codes.METHOD, "a method such as GET or POST", hint)
    return text


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise refusal(codes.HEADER_NAME, NAME_FORM)
    return text


def _header_name(text: str) -> str:
    return _token(text).lower()


def _writable_header(text: str) -> str:
    name = _header_name(text)
    if name in OWNED_HEADERS:
        raise refusal(
            codes.HEADER_OWNED, "a header that does not frame the message or the connection"
        )
    return name


def _header_value(text: str) -> str:
    if _CONTROL.search(text):
        raise refusal(codes.HEADER_VALUE, "a value without control characters")
    return text


def _query_name(text: str) -> str:
    if not text or _CONTROL.search(text) or len(text) > 256:
        raise refusal(codes.HEADER_NAME, "a name of 1 to 256 printable characters")
    return text


def _unique_names(value: Any) -> Any:
    names = [name.lower() for name in value] if isinstance(value, dict | tuple) else []
    if len(set(names)) != len(names):
        raise refusal(codes.HEADER_NAME, "each name once (case does not count)")
    return value


def _unique_server_names(value: Any) -> Any:
    twice = repeated(_compiled(str(name)) for name in _names(value))
    if twice is not None:
        wanted = f'"{twice}" once (case, a final dot and Unicode do not count)'
        raise refusal(codes.SERVER_NAMES, wanted)
    return value


def _compiled(name: str) -> str:
    """Return a name as the snapshot has it; one that IDNA refuses as it is."""
    try:
        return ascii_host(name)
    except UnicodeError:
        return name


def _names(value: Any) -> Iterable[Any]:
    return value if isinstance(value, dict | tuple | list) else ()


def _answer_status(status: int) -> int:
    if not 200 <= status <= 599:
        raise refusal(codes.STATUS, "a status from 200 to 599")
    return status


def _redirect_status(status: int) -> int:
    if status not in {301, 302, 303, 307, 308}:
        raise refusal(codes.STATUS, "301, 302, 303, 307 or 308")
    return status


def _status_range(value: Any) -> tuple[int, int]:
    low, high = 0, 0
    if isinstance(value, tuple) and len(value) == 2:
        low, high = value
    elif isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        low, high = int(match.group(1)), int(match.group(2))
    if not 100 <= low <= high <= 599:
        raise refusal(codes.STATUS, STATUS_RANGE_FORM)
    return low, high


def _target(text: str) -> str:
    if not _TARGET.fullmatch(text):
        wanted = "an absolute URL or a path, in ASCII, without spaces"
        raise refusal(codes.REDIRECT, wanted, "for example https://{host}{path}{query}")
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            wanted = "only the placeholders {scheme}, {host}, {path} and {query}"
            raise refusal(codes.REDIRECT, wanted, did_you_mean(name, PLACEHOLDERS))
    if set("{}") & set(_PLACEHOLDER.sub("", text)):
        raise refusal(codes.REDIRECT, "braces only around a placeholder")
    return text


def _url_path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or _CONTROL.search(text) or " " in text:
        raise refusal(codes.PATTERN, "a path in ASCII that begins with /")
    return text


def _text(kind: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", KIND: kind})


HostPattern = Annotated[str, AfterValidator(_host), _text("host")]
ServerName = Annotated[str, AfterValidator(_server_name), _text("host")]
ServerNameOrAll = Annotated[str, AfterValidator(_server_name_or_all), _text('host or "*"')]
Method = Annotated[str, AfterValidator(_method), _text("method")]
Token = Annotated[str, AfterValidator(_token), _text("token")]
HeaderName = Annotated[str, AfterValidator(_header_name), _text("header name")]
WritableHeader = Annotated[str, AfterValidator(_writable_header), _text("header name")]
HeaderValue = Annotated[str, AfterValidator(_header_value), _text("header value")]
QueryName = Annotated[str, AfterValidator(_query_name), _text("name")]
UrlPath = Annotated[str, AfterValidator(_url_path), _text("path")]
RedirectTarget = Annotated[str, AfterValidator(_target), _text("URL")]
AnswerStatus = Annotated[int, AfterValidator(_answer_status)]
RedirectStatus = Annotated[int, AfterValidator(_redirect_status)]
StatusRange = Annotated[
    tuple[int, int],
    BeforeValidator(_status_range),
    PlainSerializer(lambda value: f"{value[0]}-{value[1]}", return_type=str),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], KIND: "status"}),
]
UniqueNames = BeforeValidator(_unique_names)
UniqueServerNames = BeforeValidator(_unique_server_names)
