"""``${NAME}`` and ``${NAME:-default}`` in scalars."""

import re
from collections.abc import Mapping

from weirgate.shared.config import codes
from weirgate.shared.config.codes import Code

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class BadReferenceError(ValueError):
    """A ``${…}`` that cannot be replaced."""

    def __init__(self, code: Code, wanted: str) -> None:
        self.code = code
        self.wanted = wanted
        super().__init__(wanted)


def has_reference(text: str) -> bool:
    """Tell whether ``expand`` would change the text or refuse it."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace each reference; as in a shell, ``:-`` also stands in for an empty variable."""

    def replace(match: re.Match[str]) -> str:
        if match.group(0) == "$${":
            return "${"
        inside = _INSIDE.fullmatch(match.group(1))
        if inside is None or not match.group(2):
            raise BadReferenceError(codes.INTERPOLATION, "${NAME} or ${NAME:-default}")
        return _lookup(inside.group(1), inside.group(2), environ)

    return _REFERENCE.sub(replace, text)


def _lookup(name: str, default: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if default is not None and not value:
        return default
    if value is None:
        raise BadReferenceError(codes.ENVIRONMENT, f"the environment variable {name} to be set")
    try:
        value.encode()
    except UnicodeEncodeError:
        wanted = f"the environment variable {name} to be UTF-8"
        raise BadReferenceError(codes.ENVIRONMENT, wanted) from None
    return value
