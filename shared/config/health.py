"""How the endpoints of a pool are checked: by HTTP, by gRPC, or by connecting only."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from weirgate.shared.config import codes
from weirgate.shared.config.base import OneOrMany, Section, Shorthand, refusal
from weirgate.shared.config.http import (
    HeaderName,
    HeaderValue,
    HostPattern,
    Method,
    StatusRange,
    UniqueNames,
    UrlPath,
)
from weirgate.shared.config.scalars import PositiveDuration, duration

_HTTP_ONLY = frozenset({"method", "expect"})
#: What a check that only connects has no place for.
_REQUEST_ONLY = _HTTP_ONLY | {"host", "headers"}


class Expect(Section):
    """What a healthy answer looks like; all of it must hold."""

    status: Annotated[OneOrMany[StatusRange], Field(min_length=1)] = Field(
        default=((200, 399),), description="Statuses, or ranges such as `200-399`."
    )
    headers: Annotated[dict[HeaderName, HeaderValue], UniqueNames] = Field(
        default={}, description="Headers that must be there with exactly this value."
    )
    body: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="Text that the beginning of the body must contain."
    )


def _switch(value: Any) -> Any:
    """``tcp: {}`` is ``tcp: true``: there is nothing to set yet."""
    return True if value == {} else value


def _whole_server(value: Any) -> Any:
    """``grpc: true`` and ``grpc: {}`` ask about no service, but about the server."""
    return "" if value is True or value == {} else value


GrpcServiceName = Annotated[
    HeaderValue,
    Field(max_length=256),
    BeforeValidator(_whole_server),
    Shorthand({"const": True}, {"const": {}}),
]


class Health(Section):
    """An active check of each endpoint, made by the supervisor only: one per node."""

    path: UrlPath | None = Field(
        default=None,
        description="Check by HTTP: ask for this path, in the version that `protocol` says, with "
        "TLS where the pool has it. Or use `grpc` or `tcp`.",
    )
    grpc: GrpcServiceName | None = Field(
        default=None,
        description="Check by gRPC (`grpc.health.v1.Health/Check`, over HTTP/2, with TLS where the "
        "pool has it): the name of the service to ask about, such as `shop.v1.Cart`; `true`, `{}` "
        'or `""` = the server as a whole. Only `SERVING` passes.',
    )
    tcp: Annotated[bool, BeforeValidator(_switch), Shorthand({"const": {}})] = Field(
        default=False,
        description="`true` or `{}`: check by connecting only. Finds dead hosts, not dead apps.",
    )
    method: Method = Field(default="GET", description="Of the HTTP check. HEAD saves the body.")
    host: HostPattern | None = Field(
        default=None,
        description="Host header (gRPC: authority) of the check. Default: the endpoint's address.",
    )
    headers: Annotated[dict[HeaderName, HeaderValue], UniqueNames] = Field(
        default={}, description="Further headers (gRPC: metadata) of the check."
    )
    expect: Expect = Field(
        default=Expect(), description="HTTP: what counts as healthy. Default: status 200-399."
    )
    interval: PositiveDuration = Field(
        default=duration("5s"),
        description="Between two checks of an endpoint. Shorter finds failures sooner and costs "
        "each endpoint more requests.",
    )
    timeout: PositiveDuration = Field(
        default=duration("2s"), description="For a whole check. Slower counts as failed."
    )
    rise: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Successes in a row that bring an endpoint back."
    )
    fall: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3,
        description="Failures in a row that take an endpoint out. 1 reacts to every hiccup.",
    )
    jitter: Annotated[int, Field(ge=0, le=100)] = Field(
        default=10,
        description="Percent of the interval by which checks are shifted at random, so that they "
        "do not all come at once.",
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Check this port instead of the endpoint's own."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("path", "grpc") if getattr(self, kind) is not None]
        kinds += ["tcp"] * self.tcp
        if len(kinds) != 1:
            raise refusal(codes.HEALTH, 'exactly one of path: "/…", grpc: SERVICE and tcp: true')
        foreign = {"path": frozenset[str](), "grpc": _HTTP_ONLY, "tcp": _REQUEST_ONLY}[kinds[0]]
        if extra := self.model_fields_set & foreign:
            beside = "path" if min(extra) in _HTTP_ONLY else "path or grpc"
            raise refusal(codes.HEALTH, f"{min(extra)} only together with {beside}")
        return self
