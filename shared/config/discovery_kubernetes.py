"""The ``discovery.kubernetes`` section: which Services of a cluster become configuration."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from weirgate.shared.config import codes
from weirgate.shared.config.base import OneOrMany, Section, refusal
from weirgate.shared.config.scalars import AbsolutePath, Duration, duration

#: Stands for every namespace of the cluster.
EVERYWHERE = "*"
#: Each namespace costs two watches.
MAX_NAMESPACES = 64

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR = re.compile(r"[A-Za-z0-9_./=!,() -]{1,1000}")
_NAMESPACE_FORM = 'the name of a namespace, or "*" alone for all of them'


def _parted(value: Any) -> Any:
    """Let one text name several, so that one variable can."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _namespace(text: str) -> str:
    if text != EVERYWHERE and not _LABEL.fullmatch(text):
        raise refusal(codes.NAME, _NAMESPACE_FORM)
    return text


def _namespaces(names: tuple[str, ...]) -> tuple[str, ...]:
    if EVERYWHERE in names and len(names) > 1:
        raise refusal(codes.NAME, _NAMESPACE_FORM, '"*" has all the others in it')
    return tuple(dict.fromkeys(names))


def _selector(text: str) -> str:
    if not _SELECTOR.fullmatch(text):
        wanted = 'a label selector as kubectl takes it, such as "app=shop,tier!=batch"'
        raise refusal(codes.NAME, wanted)
    return text


def _prefix(text: str) -> str:
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise refusal(codes.NAME, "a DNS name in lower case, such as weirgate.io, without a /")
    return text


def _api_server(text: str) -> str:
    try:
        url = urlsplit(text)
        whole = url.scheme == "https" and url.hostname and (url.port is None or url.port)
    except ValueError:
        whole = False
    if not whole or url.query or url.fragment or url.username is not None:
        raise refusal(codes.HOST, "an https URL such as https://10.96.0.1:443")
    return text.rstrip("/")


class KubernetesDiscovery(Section):
    """Services with annotations under ``prefix``, and the endpoints that they have.

    Annotations are what labels are elsewhere: ``weirgate.io/pool: api``,
    ``weirgate.io/port: http``, ``weirgate.io/route.api.match.path: /api/*``. A key that Kubernetes
    does not allow (beyond 63 characters after the slash, or with other signs than letters,
    digits, ``-``, ``_`` and ``.``) goes into ``weirgate.io/labels``, as lines ``KEY: VALUE``.
    """

    namespace: Annotated[
        OneOrMany[Annotated[str, AfterValidator(_namespace)]],
        Field(max_length=MAX_NAMESPACES),
        AfterValidator(_namespaces),
        BeforeValidator(_parted),
    ] = Field(
        default=(),
        description='Namespaces to look into, as a list or with commas (`"shop,blue"`); `"*"` = '
        "all, which needs a ClusterRole. Default: the pod's own. `list` and `watch` of Services "
        "and EndpointSlices must be allowed in each.",
    )
    selector: Annotated[str, AfterValidator(_selector)] | None = Field(
        default=None,
        description='Only Services whose labels fit, such as `"app=shop,tier!=batch"`. Default: '
        "each that has an annotation.",
    )
    prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="weirgate.io",
        description="What stands before the slash of annotations that count.",
    )
    api_server: Annotated[str, AfterValidator(_api_server)] | None = Field(
        default=None,
        description="URL of the API server. Default: that of the cluster which this runs in.",
    )
    token: AbsolutePath | None = Field(
        default=None,
        description="The file with the bearer token; it is read again for each call, since "
        "tokens are renewed. Default: the service account's.",
    )
    ca: AbsolutePath | None = Field(
        default=None,
        description="The file with the authority of the API server's certificate. Default: the "
        "service account's.",
    )
    resync: Duration = Field(
        default=duration("10m"),
        description="Everything is listed anew after so long, should a change ever have been "
        "missed. 0 = never.",
    )
