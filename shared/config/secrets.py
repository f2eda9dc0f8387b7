"""Secret fields: read from a file where they say so, hidden in every message."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.scalars import BEARER_FORM, HEX_FORM
from weirgate.shared.config.tree import Report, Tree, describe
from weirgate.shared.config.watched import WatchedFiles

SECRETS: Mapping[tuple[PathStep, ...], str] = {
    ("gateway", "cookie_secret"): HEX_FORM,
    ("admin", "token"): BEARER_FORM,
}
_PREFIX = "file:"
_MAX_BYTES = 4096


def is_secret(path: Sequence[PathStep]) -> bool:
    """Tell whether ``path`` is in a secret field, so that its value must not be shown."""
    return any(tuple(path[: len(secret)]) == secret for secret in SECRETS)


def read_secrets(tree: Tree, report: Report, watched: WatchedFiles) -> None:
    """Replace each ``file:/path`` in a secret field by what the file holds."""
    for section, key in SECRETS:
        fields = tree.data.get(str(section))
        value = fields.get(str(key)) if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or not isinstance(value, str):
            continue
        if not value.startswith(_PREFIX):
            continue
        text = _read(tree, (section, key), value.removeprefix(_PREFIX), report, watched)
        if text is not None:
            # A copy: through an alias the same mapping may stand at another place, too.
            tree.data[str(section)] = {**fields, str(key): text}


def _read(
    tree: Tree, path: tuple[PathStep, ...], name: str, report: Report, watched: WatchedFiles
) -> str | None:
    _, spot = tree.nearest(path)
    try:
        data = watched.read(spot.file.parent / Path(name), _MAX_BYTES)
        return data[:_MAX_BYTES].decode("utf-8").strip()
    except OSError as error:
        got = f"{describe(name)}: {(error.strerror or 'an error').lower()}"
    except ValueError:  # not UTF-8, or a NUL in the name
        got = "a file that is no text"
    report.add(codes.SECRET, path, got=got, wanted=SECRETS[path])
    spot.broken = True
    return None
