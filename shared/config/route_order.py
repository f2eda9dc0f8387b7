"""The order of routes that nobody has written down in one."""

from typing import Any

from weirgate.shared.config.routes import Route
from weirgate.shared.config.schema import Config


def specificity(route: Route) -> tuple[Any, ...]:
    """Return a key that sorts narrower routes first: by path, then host, then other conditions.

    A route with several paths or hosts is as wide as the widest of them.
    """
    match = route.match.spelled_out()
    kinds = {"exact": 0, "regex": 1, "prefix": 2}
    paths = [(kinds[path.kind], -len(path.value)) for path in match.path]
    hosts = [(host.startswith("*."), -len(host)) for host in match.host]
    rules = len(match.header) + len(match.query) + len(match.cookie)
    lists = (match.method, match.source, match.listener)
    others = sum(map(bool, lists)) + (match.client_certificate is not None)
    return (
        max(paths, default=(2, 0)),
        not hosts,
        max(hosts, default=(True, 0)),
        -(rules + others),
        route.name,
    )


def names_of_routes(config: Config) -> list[str]:
    """Return the names of the file's routes, those that they get by their place among them."""
    return [route.name or f"route-{index + 1}" for index, route in enumerate(config.routes)]
