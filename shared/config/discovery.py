"""The ``discovery`` section: who may add to the configuration by labels, and where that goes."""

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, WithJsonSchema

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import split_address
from weirgate.shared.config.base import KIND, Section, refusal
from weirgate.shared.config.discovery_kubernetes import KubernetesDiscovery
from weirgate.shared.config.scalars import PositiveDuration, duration

_PREFIX = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")
_ENDPOINT_FORM = '"unix:///path/of/docker.sock" or "tcp://host:port"'
MAX_MATCH = 100


class Words(NamedTuple):
    """How a source calls a label, and what joins prefix and key."""

    word: str
    joint: str
    #: Keys that mean something to the source alone, which takes these labels away.
    others: tuple[str, ...] = ()


#: Of each kind of source.
SPELLING = {
    "docker": Words("label", ".", ("network",)),
    "kubernetes": Words("annotation", "/"),
}


def _endpoint(text: str) -> str:
    kind, _, rest = text.partition("://")
    hint = "put unix:// in front" if text.startswith("/") else ""
    if kind == "unix":
        good = rest.startswith("/") and "\0" not in rest
    elif kind == "tcp":
        split = split_address(rest)
        good = split is not None and split[0] not in {"", "[]"} and split[1] > 0
    else:
        good = False
    if not good:
        raise refusal(codes.ENDPOINT, _ENDPOINT_FORM, hint or "TLS to the engine is a proxy's work")
    return text


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise refusal(codes.NAME, 'letters, digits, "_", "-" and ".", none of the signs at the end')
    return text


class DockerDiscovery(Section):
    """The containers of a Docker engine that have labels under ``prefix``."""

    endpoint: Annotated[
        str,
        AfterValidator(_endpoint),
        WithJsonSchema({"type": "string", KIND: "unix://path or tcp://host:port"}),
    ] = Field(
        default="unix:///var/run/docker.sock",
        description="Where the engine answers. Only GET requests are made, so a proxy that lets "
        "nothing else through is enough, and better: who may write to the socket is root on that "
        "host.",
    )
    network: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None,
        description="The network that containers are reached in; their label "
        "`weirgate.network` has precedence. Default: the only one that a container is in.",
    )
    prefix: Annotated[
        str, AfterValidator(_prefix), WithJsonSchema({"type": "string", KIND: "name"})
    ] = Field(
        default="weirgate", description="What stands before the first dot of labels that count."
    )
    resync: PositiveDuration = Field(
        default=duration("30s"),
        description="All containers are listed anew after so long, should a change ever have been "
        "missed.",
    )
    match: Annotated[dict[str, str], Field(max_length=MAX_MATCH)] = Field(
        default={},
        description="Labels, by name, that a container must have as well, such as "
        "`com.docker.compose.project: shop`. Default: none.",
    )


class Discovery(Section):
    """Sources of endpoints, pools and routes besides the file: operations.md says how."""

    docker: DockerDiscovery | None = Field(
        default=None,
        description="Containers with labels; `{}` = with all defaults. Default: no Docker.",
    )
    kubernetes: KubernetesDiscovery | None = Field(
        default=None,
        description="Services of a Kubernetes cluster with annotations; `{}` = with all defaults. "
        "Default: no Kubernetes.",
    )
    routes: Literal["last", "first"] = Field(
        default="last",
        description="Where the routes of labels go: behind those of the file (`last`), so that a "
        "label never takes traffic that the file has claimed, or before them (`first`).",
    )
    wait: bool = Field(
        default=False,
        description="true: the node is ready (`status --ready`, `GET /health`, and for its edges) "
        "only when each source has told once what there is. For nodes that join others: until then "
        "they would answer 404. false: the file alone is served meanwhile.",
    )

    def prefixes(self) -> dict[str, str]:
        """Return the prefix of each kind of source that is configured."""
        sections = {kind: getattr(self, kind) for kind in SPELLING}
        return {kind: section.prefix for kind, section in sections.items() if section is not None}
