"""Did-you-mean: the nearest right word for a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches

# Words of other balancers, and near misses that no edit distance finds.
_SYNONYMS = {
    "address": ("bind",),
    "backend": ("pool", "pools"),
    "backends": ("pools", "endpoints"),
    "certs": ("certificates",),
    "frontends": ("listeners",),
    "headers": ("header", "request_headers"),
    "healthcheck": ("health",),
    "insecure": ("danger_skip_verify",),
    "lb": ("balance",),
    "listen": ("bind", "listeners"),
    "members": ("endpoints",),
    "nodes": ("endpoints",),
    "policy": ("balance",),
    "rules": ("routes",),
    "servers": ("endpoints", "listeners"),
    "strategy": ("balance",),
    "targets": ("endpoints",),
    "threads": ("workers",),
    "type": ("protocol",),
    "upstream": ("pool",),
    "upstreams": ("pools", "endpoints"),
    "url": ("path", "to"),
    "verify": ("danger_skip_verify",),
}

_LATER = {
    "h2": "HTTP/2 comes in a later release",
    "h3": "HTTP/3 comes in a later release",
    "sni": 'write "tls"',
    "https": 'write "http" and add tls: {certificates: […]}',
    "yes": "write true",
    "no": "write false",
    "on": "write true",
    "off": "write false",
}


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that ``word`` was probably meant to be, or ``None``."""
    by_lower = {choice.lower(): choice for choice in choices}
    lowered = word.lower()[:80]
    for synonym in _SYNONYMS.get(lowered, ()):
        if synonym in by_lower:
            return synonym
    close = get_close_matches(lowered, by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean "…"?`` or an empty string."""
    match = nearest(word, choices)
    return f'did you mean "{match}"?' if match is not None else ""


def explain_word(word: object, choices: Iterable[str]) -> str:
    """Return a hint for a word that is none of ``choices``, knowing what later releases bring."""
    if not isinstance(word, str):
        return ""
    return _LATER.get(word.lower(), "") or did_you_mean(word, choices)
