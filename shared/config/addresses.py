"""Addresses: what a listener binds, where an endpoint is, and networks in CIDR form."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from weirgate.shared.config import codes
from weirgate.shared.config.base import KIND, refusal

_HOST_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):([0-9]{1,5})")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_URL = re.compile(r"[a-z]+://([^/]*).*", re.IGNORECASE | re.DOTALL)
_MAX_UNIX_PATH_BYTES = 107
#: What stands in front of the path of a list of networks.
FILE = "file:"
_WILDCARDS = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared, not bound

BIND_FORM = '"IP:port", "[IPv6]:port" or "unix:/path"'
ENDPOINT_FORM = '"host:port" with a name, an IPv4 address or an [IPv6] address'
NETWORK_FORM = "an IP address or a network such as 10.0.0.0/8"
SOCKET_FORM = '"IP:port" or "[IPv6]:port"'
ADMIN_FORM = '"IP:port" or "off"'


def _ip(text: str, *, bracketed: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if (address.version == 6) != bracketed or "%" in text:
        return None
    return address


def split_address(text: str) -> tuple[str, int] | None:
    """Split ``host:port``; an IPv6 host keeps its brackets. ``None`` where it is not that."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match.group(3)) > 65535:
        return None
    host = f"[{match.group(1)}]" if match.group(1) is not None else match.group(2)
    return host, int(match.group(3))


def _literal(host: str) -> str | None:
    bracketed = host.startswith("[")
    address = _ip(host.strip("[]") if bracketed else host, bracketed=bracketed)
    if address is None:
        return None
    return f"[{address}]" if bracketed else str(address)


def is_host_name(text: str) -> bool:
    """Tell whether the text is a name for DNS, and no malformed IPv4 address."""
    labels = text.split(".")
    known = all(_LABEL.fullmatch(label) for label in labels)
    return len(text) <= 253 and known and not labels[-1].isdigit()


def _bind_hint(text: str) -> str:
    split = split_address(text)
    if split is None and text.isdigit():
        return f'write "0.0.0.0:{text}"'
    if split is None and ":" in text:
        return "the port is 0-65535, and an IPv6 address stands in brackets"
    if split is None:
        return "add the port"
    host, port = split
    if host in {"", "*"}:
        return f'for every address write ["0.0.0.0:{port}", "[::]:{port}"]'
    if host == "localhost":
        return f'write "127.0.0.1:{port}"'
    if is_host_name(host):
        return "names are not resolved here: write the IP address"
    return ""


def _bind(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        size = len(path.encode(errors="replace"))
        if not path.startswith("/") or "\0" in path or size > _MAX_UNIX_PATH_BYTES:
            hint = f"an absolute path of at most {_MAX_UNIX_PATH_BYTES} bytes"
            raise refusal(codes.BIND, BIND_FORM, hint)
        return text
    return _ip_and_port(text, BIND_FORM)


def _ip_and_port(text: str, form: str) -> str:
    split = split_address(text)
    host = _literal(split[0]) if split else None
    if split is None or host is None:
        raise refusal(codes.BIND, form, _bind_hint(text))
    return f"{host}:{split[1]}"


def _socket_bind(text: str) -> str:
    bind = _ip_and_port(text, SOCKET_FORM)
    if bind.endswith(":0"):
        raise refusal(codes.BIND, SOCKET_FORM, "the port is 1-65535: other hosts have to know it")
    return bind


def _admin_bind(text: str) -> str:
    return text if text == "off" else _ip_and_port(text, ADMIN_FORM)


def _endpoint(text: str) -> str:
    url = _URL.fullmatch(text)
    if url is not None:
        hint = f'write "{url.group(1)}", and tls: {{}} in the pool for https'
        raise refusal(codes.ENDPOINT, ENDPOINT_FORM, hint)
    split = split_address(text)
    if split is None:
        no_port = is_host_name(text) or _literal(text) is not None
        hint = "the port is 1-65535, and an IPv6 address stands in brackets"
        if no_port:
            hint = f'add the port: "{text}:80"'
        elif text.startswith("unix:"):
            hint = "endpoints are reached by TCP"
        raise refusal(codes.ENDPOINT, ENDPOINT_FORM, hint)
    host, port = split
    literal = _literal(host)
    if literal is None and not is_host_name(host):
        raise refusal(codes.ENDPOINT, ENDPOINT_FORM)
    if port == 0:
        raise refusal(codes.ENDPOINT, ENDPOINT_FORM, "the port is 1-65535")
    return f"{literal or host.lower()}:{port}"


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise refusal(codes.NETWORK, NETWORK_FORM) from None
    raise refusal(codes.NETWORK, NETWORK_FORM, f'did you mean "{loose}"?')


def _network_or_file(text: str) -> str:
    if not text.startswith(FILE):
        return _network(text)
    if len(text) == len(FILE) or "\0" in text:
        raise refusal(codes.PATH, 'a network, or "file:" and the path of a list')
    return text


def overlaps(one: str, other: str) -> bool:
    """Tell whether two checked listen addresses cannot be bound at the same time."""
    if one == other:
        return not one.endswith(":0")
    if one.startswith("unix:") or other.startswith("unix:"):
        return False
    (host, port), (other_host, other_port) = one.rsplit(":", 1), other.rsplit(":", 1)
    if port != other_port or port == "0" or host.startswith("[") != other_host.startswith("["):
        return False
    return bool({host, other_host} & _WILDCARDS)


def is_loopback(address: str) -> bool:
    """Tell whether a checked ``IP:port`` is reachable from this host only."""
    return ipaddress.ip_address(address.rsplit(":", 1)[0].strip("[]")).is_loopback


Bind = Annotated[str, AfterValidator(_bind), WithJsonSchema({"type": "string", KIND: "address"})]
SocketBind = Annotated[
    str, AfterValidator(_socket_bind), WithJsonSchema({"type": "string", KIND: "IP:port"})
]
AdminBind = Annotated[
    str, AfterValidator(_admin_bind), WithJsonSchema({"type": "string", KIND: 'address or "off"'})
]
EndpointAddress = Annotated[
    str, AfterValidator(_endpoint), WithJsonSchema({"type": "string", KIND: "host:port"})
]
Network = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", KIND: "CIDR"})]
NetworkOrFile = Annotated[
    str,
    AfterValidator(_network_or_file),
    WithJsonSchema({"type": "string", KIND: "CIDR or file:path"}),
]
Port = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535})]
