"""A container as the engine lists it → what discovery knows of an object.

The engine's answer is not trusted to have any form: what is not as expected is left out.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from weirgate.shared.config.discovery import DockerDiscovery
from weirgate.shared.discovery.found import AddressState, Found, FoundAddress

_NETWORK = "network"


def container_ids(containers: Iterable[Any]) -> frozenset[str]:
    """Return the ids of listed containers."""
    return frozenset(map(_id, containers))


def found_containers(
    containers: Iterable[Any], section: DockerDiscovery, ending: Collection[str] = ()
) -> tuple[Found, ...]:
    """Return the containers that have labels under the prefix, the oldest first.

    Those with an id of ``ending`` have been told to end: they drain.
    """
    found = []
    for container in containers:
        labels = _labels(container, f"{section.prefix}.")
        if labels:
            created = container.get("Created")
            age = created if isinstance(created, int) else 0
            told_to_end = _id(container) in ending
            found.append((age, _found(container, labels, section, told_to_end=told_to_end)))
    found.sort(key=lambda item: (item[0], item[1].name))
    return tuple(each for _, each in found)


def _found(
    container: Mapping[str, Any],
    labels: dict[str, str],
    section: DockerDiscovery,
    *,
    told_to_end: bool,
) -> Found:
    network = labels.pop(_NETWORK, "").strip() or section.network
    address, trouble = _address(container, network, section.prefix)
    state, why = _state(container)
    if told_to_end and state == "up":
        state, why = "draining", "told to end"
    return Found(
        _name(container),
        labels,
        (FoundAddress(address, state, why),) if address else (),
        _only_port(container),
        trouble,
    )


def _labels(container: Any, prefix: str) -> dict[str, str]:
    labels = _mapping(_mapping(container).get("Labels"))
    return {
        key.removeprefix(prefix): value
        for key, value in labels.items()
        if isinstance(key, str) and key.startswith(prefix) and isinstance(value, str)
    }


def _id(container: Any) -> str:
    return str(_mapping(container).get("Id"))


def _name(container: Mapping[str, Any]) -> str:
    """Return the container's own name; further ones are those of old links to it."""
    names = container.get("Names")
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    own = min(texts, key=lambda name: (name.count("/"), name), default="")
    return f"container {own.strip('/') or _id(container)[:12]}"


def _address(container: Mapping[str, Any], wanted: str | None, prefix: str) -> tuple[str, str]:
    """Return the address in the right network, or what is wrong."""
    networks = _mapping(_mapping(container.get("NetworkSettings")).get("Networks"))
    known = ", ".join(sorted(map(str, networks))) or "none"
    if wanted is None and len(networks) > 1:
        choose = f"choose by {prefix}.network or by discovery.docker.network"
        return "", f"several networks ({known}): {choose}"
    if wanted is not None and wanted not in networks:
        return "", f"the network {wanted}, but it is in others: {known}"
    name = wanted if wanted is not None else next(iter(networks), "")
    network = _mapping(networks.get(name))
    for key in ("IPAddress", "GlobalIPv6Address"):
        if isinstance(network.get(key), str) and network[key]:
            return network[key], ""
    return "", f"no address in the network {name}" if name else "no network"


def _state(container: Mapping[str, Any]) -> tuple[AddressState, str]:
    """Return whether it takes work; one without a check of its own does while it runs."""
    state, status = str(container.get("State")), str(container.get("Status"))
    if state != "running":
        return "down", state
    for words, why in (("(unhealthy)", "unhealthy"), ("(health: starting)", "starting")):
        if words in status:
            return "down", why
    return "up", ""


def _only_port(container: Mapping[str, Any]) -> int | None:
    ports = container.get("Ports")
    exposed = {
        port.get("PrivatePort")
        for port in map(_mapping, ports if isinstance(ports, list) else ())
        if port.get("Type") == "tcp"
    }
    only = next(iter(exposed)) if len(exposed) == 1 else None
    return only if isinstance(only, int) and 1 <= only <= 65535 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
