"""The routes' part of the snapshot: matches, filters and actions."""

from collections.abc import Mapping
from typing import Any

from weirgate.shared.config.compile_listeners import source_prefix
from weirgate.shared.config.match import ClientCertificateMatch, Match, ValueRule
from weirgate.shared.config.routes import Filter, HeaderEdit, Route
from weirgate.shared.config.scalars import to_ms
from weirgate.shared.config.schema import Config, route_name


def compile_routes(config: Config) -> list[dict[str, Any]]:
    """Compile every route, in its order."""
    return [_route(config, index) for index in range(len(config.routes))]


def _route(config: Config, index: int) -> dict[str, Any]:
    route = config.routes[index]
    limits, timeouts = config.gateway.limits, config.gateway.timeouts

    def time_ms(key: str) -> int:
        own = getattr(route.timeouts, key)
        return to_ms(getattr(timeouts, key) if own is None else own)

    own_body = route.limits.body_bytes
    return {
        "name": route_name(config, index),
        "match": _match(route.match.spelled_out()),
        "filters": [_filter(item) for item in route.filters],
        "action": _action(route),
        "body_bytes": limits.body_bytes if own_body is None else own_body,
        "response_head_ms": time_ms("response_head"),
        "between_bytes_ms": time_ms("between_bytes"),
        "total_ms": time_ms("total"),
        "upgrade_idle_ms": time_ms("upgrade_idle"),
        "upgrade_total_ms": time_ms("upgrade_total"),
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "hosts": list(match.host),
        "paths": [{"kind": path.kind, "value": path.value} for path in match.path],
        "methods": list(match.method),
        "headers": _rules(match.header),
        "queries": _rules(match.query),
        "cookies": _rules(match.cookie),
        "sources": list(match.source),
        "listeners": list(match.listener),
        "client_certificate": match.client_certificate
        and _client_certificate(match.client_certificate),
    }


def _client_certificate(match: ClientCertificateMatch) -> dict[str, Any]:
    return {
        "subject": match.subject and _rule(match.subject),
        "san": match.san and _rule(match.san),
        "fingerprints": list(match.fingerprint),
    }


def _rule(rule: ValueRule) -> dict[str, Any]:
    return {"kind": rule.kind, "value": rule.value, "invert": rule.invert}


def _rules(rules: Mapping[str, ValueRule]) -> list[dict[str, Any]]:
    return [{"name": name, **_rule(rule)} for name, rule in rules.items()]


def _filter(item: Filter) -> dict[str, Any]:
    fields: dict[str, Any]
    if item.rewrite_prefix is not None:
        fields = {"prefix": item.rewrite_prefix}
    elif item.rate_limit is not None:
        rate = item.rate_limit.rate
        fields = {
            "per_second": rate.per_second,
            "burst": item.rate_limit.burst or rate.burst,
            "source_prefix": source_prefix(item.rate_limit.source_prefix),
        }
    elif item.sticky is not None:
        sticky = item.sticky
        fields = {
            "cookie": sticky.cookie,
            "max_age_ms": to_ms(sticky.max_age),
            "secure": sticky.secure,
            "path": sticky.path,
        }
    elif item.grpc_web is not None:
        fields = {}
    else:
        fields = _header_edit(item.request_headers or item.response_headers or HeaderEdit())
    return {"kind": item.kind, **fields}


def _header_edit(edit: HeaderEdit) -> dict[str, Any]:
    return {"set": _pairs(edit.set), "add": _pairs(edit.add), "remove": list(edit.remove)}


def _pairs(headers: Mapping[str, str]) -> list[list[str]]:
    return [[name, value] for name, value in headers.items()]


def _action(route: Route) -> dict[str, Any]:
    if route.respond is not None:
        respond = route.respond
        headers = _pairs(respond.headers)
        return {
            "kind": "respond",
            "status": respond.status,
            "headers": headers,
            "body": respond.body,
        }
    if route.redirect is not None:
        redirect = route.redirect
        return {"kind": "redirect", "status": redirect.status, "location": redirect.to}
    return {"kind": "pool", "pool": route.pool}
