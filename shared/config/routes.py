"""The ``routes`` section: what happens to a request that matches."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from weirgate.shared.config import codes
from weirgate.shared.config.base import Many, Section, refusal, repeated
from weirgate.shared.config.http import (
    BODILESS,
    AnswerStatus,
    HeaderValue,
    RedirectStatus,
    RedirectTarget,
    Token,
    UniqueNames,
    UrlPath,
    WritableHeader,
)
from weirgate.shared.config.match import Match
from weirgate.shared.config.scalars import ByteSize, Duration, Name, RateValue, duration
from weirgate.shared.config.sources import SourcePrefix

HeaderMap = Annotated[dict[WritableHeader, HeaderValue], UniqueNames]


class HeaderEdit(Section):
    """Changes to the headers of a message; a name stands in one of the three only."""

    set: HeaderMap = Field(default={}, description="Replaces all headers of this name by one.")
    add: HeaderMap = Field(default={}, description="Adds one and keeps those already there.")
    remove: Annotated[Many[WritableHeader], UniqueNames] = Field(
        default=(), description="Removes all headers of this name."
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if repeated([*self.set, *self.add, *self.remove]) is not None:
            raise refusal(codes.HEADER_NAME, "each name in one of set, add and remove")
        return self


class RequestHeaderEdit(HeaderEdit):
    """Changes to the headers of a request, which must keep exactly one Host."""

    @model_validator(mode="after")
    def _one_host(self) -> Self:
        if "host" in self.add or "host" in self.remove:
            raise refusal(codes.HEADER_OWNED, "host only under set: a request has exactly one")
        return self


class RateLimit(Section):
    """A token bucket per source, one for the whole node."""

    rate: RateValue = Field(description="What flows in. Beyond it the answer is 429.")
    burst: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        default=None,
        description="What may come at once after a pause. Default: the rate per second, rounded "
        "up. Too small hurts browsers, which ask for many things at once.",
    )
    source_prefix: SourcePrefix = Field(
        default=SourcePrefix(), description="What counts as one source."
    )


class Sticky(Section):
    """Keeps a client on one endpoint by a signed cookie, as long as that endpoint is usable."""

    cookie: Token = Field(default="weirgate", description="Its name.")
    max_age: Duration = Field(default=duration("0"), description="0 = a session cookie.")
    secure: bool = Field(default=False, description="Send it over TLS only. Set it where you can.")
    path: UrlPath = Field(default="/", description="Path that the cookie is valid for.")


class GrpcWeb(Section):
    """The bridge from gRPC-Web, which browsers can speak, to gRPC."""


class Filter(Section):
    """One step between the match and the action: exactly one key."""

    rewrite_prefix: UrlPath | None = Field(
        default=None,
        description="Replaces the prefix that the path matched; `/` strips it. Each path of the "
        "route must be a prefix.",
    )
    request_headers: RequestHeaderEdit | None = Field(
        default=None, description="Changes what the endpoint sees."
    )
    response_headers: HeaderEdit | None = Field(
        default=None, description="Changes what the client sees."
    )
    rate_limit: RateLimit | None = Field(default=None, description="Limits each source.")
    sticky: Sticky | None = Field(
        default=None,
        description="Keeps a client on one endpoint; `{}` = with all defaults. Spreads load less "
        "evenly.",
    )

    grpc_web: GrpcWeb | None = Field(
        default=None,
        description="`{}`: calls of gRPC-Web (`application/grpc-web`, `-text`) reach the pool as "
        "gRPC, and are answered as what they were; other requests pass unchanged. The pool needs "
        "HTTP/2. A page of another origin also needs the CORS headers of the application, or of "
        "`response_headers`.",
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise refusal(codes.FILTER, "exactly one key in each item of filters")
        return self

    @property
    def kind(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))


class Respond(Section):
    """An answer that the gateway gives itself."""

    status: AnswerStatus = Field(default=200, description="200-599.")
    headers: HeaderMap = Field(default={}, description="Headers of the answer.")
    body: Annotated[str, Field(max_length=1024 * 1024)] = Field(
        default="", description="Sent as it is, in UTF-8; at most 1 MiB."
    )

    @model_validator(mode="after")
    def _body_allowed(self) -> Self:
        if self.body and self.status in BODILESS:
            raise refusal(codes.BODY, f"no body with status {self.status}")
        return self


class Redirect(Section):
    """An answer that sends the client elsewhere."""

    to: RedirectTarget = Field(
        description="URL or path; `{scheme}`, `{host}`, `{path}` and `{query}` (with its `?`, if "
        "there is one) are replaced."
    )
    status: RedirectStatus = Field(
        default=308,
        description="301 and 308 are kept by browsers for long; 302, 303 and 307 are not. 307 and "
        "308 keep the method.",
    )


class RouteLimits(Section):
    """Bounds for the requests of one route."""

    body_bytes: ByteSize | None = Field(
        default=None,
        description="Longest request body; beyond it 413. 0 = no limit. Default: the gateway's.",
    )


class RouteTimeouts(Section):
    """Times for the requests of one route; each defaults to the gateway's."""

    response_head: Duration | None = Field(
        default=None, description="From the request sent to the response's head. Then 504."
    )
    between_bytes: Duration | None = Field(
        default=None, description="Between two pieces of a body, in either direction."
    )
    total: Duration | None = Field(
        default=None, description="For the whole exchange. Cuts long downloads, too."
    )
    upgrade_idle: Duration | None = Field(
        default=None,
        description="For an upgraded connection (WebSocket), an event stream or a gRPC call "
        "without a byte.",
    )
    upgrade_total: Duration | None = Field(
        default=None, description="How long an upgraded connection (WebSocket) may last."
    )


class Route(Section):
    """What to do with the requests that match; the first match wins, in the order written."""

    name: Name | None = Field(
        default=None,
        description="Unique; a label in logs and metrics. Default: `route-N`, counted from 1, "
        "which changes when routes are inserted.",
    )
    match: Match = Field(default=Match(), description="Conditions. Default: every request.")
    filters: Many[Filter] = Field(default=(), description="Steps in the order written.")
    pool: Name | None = Field(default=None, description="Action: send it to this pool.")
    respond: Respond | None = Field(default=None, description="Action: answer it here.")
    redirect: Redirect | None = Field(default=None, description="Action: send the client away.")
    limits: RouteLimits = Field(default=RouteLimits(), description="Bounds.")
    timeouts: RouteTimeouts = Field(default=RouteTimeouts(), description="Times.")
