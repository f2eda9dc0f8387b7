"""The ``match`` of a route: conditions on a request, on its client and on how it came."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import Network
from weirgate.shared.config.base import KIND, OneOrMany, Section, Shorthand, refusal
from weirgate.shared.config.http import (
    HeaderName,
    HostPattern,
    Method,
    QueryName,
    Token,
    UniqueNames,
)
from weirgate.shared.config.scalars import Name

PATH_FORM = '"/x" (exactly), "/x/*" (it and all below) or {regex: …}'
GRPC_FORM = '"shop.v1.Cart" (all methods of a service) or "shop.v1.Cart/Add" (one)'
MAX_PATTERN = 4096
_GRPC_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:/[A-Za-z_]\w*)?", re.ASCII)
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]


class PathRegex(Section):
    """A path pattern that is a regular expression."""

    regex: Pattern = Field(
        description="Regular expression in Rust's syntax (linear time, no look-around). Anchor it "
        "with `^` and `$`."
    )

    @property
    def kind(self) -> Literal["regex"]:
        """The kind in the snapshot."""
        return "regex"

    @property
    def value(self) -> str:
        """The value in the snapshot."""
        return self.regex


@dataclass(frozen=True, slots=True)
class PathText:
    """``/x`` or ``/x/*``; a prefix has no ``/*`` any more, and ``""`` is every path."""

    kind: Literal["exact", "prefix"]
    value: str


PathPattern = PathText | PathRegex


def parse_path(text: str) -> PathText:
    """Read a path as it is written in the configuration, or refuse it."""
    prefix = text.endswith("/*")
    path = text.removesuffix("/*") if prefix else text
    if not text.startswith("/"):
        hint = f'did you mean "/{text}"?' if text and text[0].isalnum() else ""
        raise refusal(codes.PATTERN, PATH_FORM, hint)
    if "*" in path:
        hint = "* stands only at the end, behind a /"
        raise refusal(codes.PATTERN, PATH_FORM, hint)
    if "?" in path or "#" in path:
        raise refusal(codes.PATTERN, PATH_FORM, "the query is matched by query: {name: value}")
    if not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
        raise refusal(codes.PATTERN, PATH_FORM, "percent-encode what is not printable ASCII")
    if {".", ".."} & set(path.split("/")):
        raise refusal(codes.PATTERN, PATH_FORM, "dot segments are resolved before matching")
    if len(path) > MAX_PATTERN:
        raise refusal(codes.PATTERN, PATH_FORM, f"at most {MAX_PATTERN} characters")
    return PathText("prefix" if prefix else "exact", path)


def _path(value: Any) -> PathPattern:
    if isinstance(value, PathText | PathRegex):
        return value
    if isinstance(value, str):
        return parse_path(value)
    if isinstance(value, dict):
        return PathRegex.model_validate(value)
    raise refusal(codes.PATTERN, PATH_FORM)


PathItem = Annotated[
    PathText | PathRegex,
    PlainValidator(_path),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"regex": {"type": "string"}},
                    "required": ["regex"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


def _grpc_name(text: str) -> str:
    if len(text) > MAX_PATTERN:
        raise refusal(codes.GRPC, GRPC_FORM, f"at most {MAX_PATTERN} characters")
    if not _GRPC_NAME.fullmatch(text):
        bare = text.strip("/").removesuffix("/*")
        hint = f'did you mean "{bare}"?' if _GRPC_NAME.fullmatch(bare) else ""
        raise refusal(codes.GRPC, GRPC_FORM, hint)
    return text


GrpcName = Annotated[
    str,
    AfterValidator(_grpc_name),
    WithJsonSchema({"type": "string", KIND: "service or service/method"}),
]


class ValueRule(Section):
    """A condition on one value; a value that is not there fails all but a negated one."""

    exact: Annotated[str, Field(max_length=MAX_PATTERN)] | None = Field(
        default=None, description="The whole value. A bare string is short for it."
    )
    prefix: Pattern | None = Field(default=None, description="How the value begins.")
    regex: Pattern | None = Field(
        default=None, description="Regular expression in Rust's syntax; anchor it with `^` and `$`."
    )
    present: bool | None = Field(
        default=None, description="Whether it is there at all. A bare `true` is short for it."
    )
    negate: bool = Field(
        default=False, alias="not", description="Turns the condition round. Absent then matches."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [v for v in (self.exact, self.prefix, self.regex, self.present) if v is not None]
        if len(given) != 1:
            raise refusal(codes.VALUE_RULE, "exactly one of exact, prefix, regex and present")
        return self

    @property
    def kind(self) -> Literal["exact", "prefix", "regex", "present"]:
        """The kind in the snapshot."""
        if self.exact is not None:
            return "exact"
        if self.prefix is not None:
            return "prefix"
        return "regex" if self.regex is not None else "present"

    @property
    def value(self) -> str:
        """The value in the snapshot; empty for ``present``."""
        return self.exact or self.prefix or self.regex or ""

    @property
    def invert(self) -> bool:
        """Whether the condition is turned round, ``present: false`` included."""
        return self.negate != (self.present is False)


def _rule(value: Any) -> Any:
    if isinstance(value, str):
        return {"exact": value}
    if isinstance(value, bool):
        return {"present": value}
    return value


Rule = Annotated[
    ValueRule, BeforeValidator(_rule), Shorthand({"type": "string"}, {"type": "boolean"})
]


def _fingerprint(text: str) -> str:
    """Return 64 lower-case hex digits; openssl writes them with colons and in capitals."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        wanted = "64 hex digits: the SHA-256 hash of the certificate"
        raise refusal(codes.FINGERPRINT, wanted)
    return digits


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]


class ClientCertificateMatch(Section):
    """Conditions on the client's verified certificate. A client without one never matches."""

    subject: Rule | None = Field(
        default=None,
        description="Its subject as RFC 4514 writes it, the most specific part first, as in "
        "`CN=billing,O=Example`; what is not printable ASCII stands as `\\XX`.",
    )
    san: Rule | None = Field(
        default=None,
        description="One of its alternative names: DNS names, URIs and e-mail addresses.",
    )
    fingerprint: OneOrMany[Fingerprint] = Field(
        default=(), description="SHA-256 of the certificate in hex, with or without colons."
    )


def _client_certificate(value: Any) -> Any:
    if value == "present":
        return {}
    if isinstance(value, str | bool):
        raise refusal(codes.CHOICE, "present, or a mapping with subject, san and fingerprint")
    return value


class Match(Section):
    """All given keys must hold; the entries of a list are alternatives. Empty = every request."""

    host: OneOrMany[HostPattern] = Field(
        default=(),
        description="Name without port, or `*.name` for one or more labels in front of it. "
        "`bücher.example` is the same as `xn--bcher-kva.example`.",
    )
    path: OneOrMany[PathItem] = Field(
        default=(),
        description="`/x` is exactly that (`/` is the root alone), `/x/*` is `/x` and all below "
        "it, `/*` is everything, `{regex: …}` is the escape hatch and slower.",
    )
    method: OneOrMany[Method] = Field(default=(), description="Upper case. GET is not also HEAD.")
    grpc: OneOrMany[GrpcName] = Field(
        default=(),
        description="Calls of gRPC, and of gRPC-Web: `shop.v1.Cart` is every method of the "
        "service, `shop.v1.Cart/Add` is one. Stands for `path`, `method: POST` and a "
        "`content-type` that begins with `application/grpc`, so none of them beside it.",
    )
    header: Annotated[dict[HeaderName, Rule], UniqueNames] = Field(
        default={}, description="By name: a string (exact), `true` (present) or a condition."
    )
    query: dict[QueryName, Rule] = Field(
        default={}, description="Parameters of the query, as `header`. Case counts."
    )
    cookie: dict[Token, Rule] = Field(default={}, description="Cookies, as `header`. Case counts.")
    source: OneOrMany[Network] = Field(
        default=(),
        description="The client's address, after PROXY headers and trusted X-Forwarded-For.",
    )
    listener: OneOrMany[Name] = Field(
        default=(),
        description="The listener that the client came by: `plain` with a `redirect` to "
        "`https://{host}{path}{query}` sends everybody there to TLS.",
    )
    client_certificate: Annotated[
        ClientCertificateMatch | None,
        BeforeValidator(_client_certificate),
        Shorthand({"const": "present"}),
    ] = Field(
        default=None,
        description="`present`: the client has shown a certificate (`tls.client` of the listener), "
        "or conditions on it, which must all hold.",
    )

    @model_validator(mode="after")
    def _grpc_alone(self) -> Self:
        beside = [key for key in ("path", "method") if getattr(self, key)]
        beside += ["header content-type"] * ("content-type" in self.header)
        if self.grpc and beside:
            hint = f"leave {beside[0]} out: grpc stands for it"
            raise refusal(codes.GRPC, f"grpc without {beside[0]}", hint)
        return self

    def spelled_out(self) -> "Match":
        """Return the same conditions without ``grpc``: in the words that data planes know."""
        if not self.grpc:
            return self
        content_type = {"content-type": ValueRule(prefix="application/grpc")}
        conditions = {
            "grpc": (),
            "path": tuple(PathText("exact" if "/" in n else "prefix", f"/{n}") for n in self.grpc),
            "method": ("POST",),
            "header": {**self.header, **content_type},
        }
        return self.model_copy(update=conditions)
