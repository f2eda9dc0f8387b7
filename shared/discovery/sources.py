"""Every kind of source, and how it is made of its section of the configuration."""

from collections.abc import Callable, Mapping
from typing import Any

from weirgate.shared.config.discovery import Discovery
from weirgate.shared.discovery.found import DiscoverySource


def _docker(section: Any) -> DiscoverySource:
    from weirgate.shared.discovery.docker import DockerSource

    return DockerSource(section)


def _kubernetes(section: Any) -> DiscoverySource:
    from weirgate.shared.discovery.kubernetes import KubernetesSource

    return KubernetesSource(section)


#: By kind, which is the key in ``discovery``. Each imports its library only when it is used.
_MAKERS: Mapping[str, Callable[[Any], DiscoverySource]] = {
    "docker": _docker,
    "kubernetes": _kubernetes,
}


def sections_of(discovery: Discovery | None) -> dict[str, Any]:
    """Return the sections of the sources that are configured, by kind."""
    sections = {kind: getattr(discovery, kind, None) for kind in _MAKERS}
    return {kind: section for kind, section in sections.items() if section is not None}


def make_source(kind: str, section: Any) -> DiscoverySource:
    """Make a source of a kind."""
    return _MAKERS[kind](section)
