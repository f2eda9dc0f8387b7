"""Certificates, keys and authorities: read, checked for PEM, and embedded in the snapshot."""

import re
from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.tree import Report, Tree, describe

_MAX_BYTES = 4 * 1024 * 1024
_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----",
)
_KEY_LABELS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})


class Files:
    """Reads files that a configuration names; what is wrong with them is reported, not raised."""

    def __init__(self, tree: Tree, report: Report) -> None:
        self._tree = tree
        self._report = report

    def certificate(self, path: tuple[PathStep, ...], name: str) -> str:
        """Return the text of a file with certificates; empty after a report."""
        text = self._read(path, name)
        if text is None:
            return ""
        labels = _labels(text)
        if "CERTIFICATE" not in labels:
            hint = "cert and key are swapped?" if labels & _KEY_LABELS else ""
            self._refuse(path, name, "a PEM file with a certificate", hint)
        return text

    def key(self, path: tuple[PathStep, ...], name: str) -> str:
        """Return the text of a file with a private key; empty after a report."""
        text = self._read(path, name)
        if text is None:
            return ""
        labels = _labels(text)
        wanted = "a PEM file with an unencrypted private key"
        if "ENCRYPTED PRIVATE KEY" in labels or "Proc-Type: 4,ENCRYPTED" in text:
            self._refuse(path, name, wanted, "decrypt it: openssl pkey -in old.key -out new.key")
        elif not labels & _KEY_LABELS:
            hint = "cert and key are swapped?" if "CERTIFICATE" in labels else ""
            self._refuse(path, name, wanted, hint)
        return text

    def _read(self, path: tuple[PathStep, ...], name: str) -> str | None:
        _, spot = self._tree.nearest(path)
        hint = ""
        try:
            with (spot.file.parent / Path(name)).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) <= _MAX_BYTES:
                return data.decode("ascii", errors="replace").replace("\ufffd", "?")
            got = f"{describe(name)}: beyond 4 MiB"
        except PermissionError:
            got = f"{describe(name)}: this user may not read it"
            hint = "give the user that runs Weirgate read permission, for example by group"
        except OSError as error:
            got = f"{describe(name)}: {(error.strerror or 'an error').lower()}"
            hint = f"paths are relative to {spot.file}" if not name.startswith("/") else ""
        except ValueError:
            got = "a path with a NUL character"
        self._report.add(codes.PEM_FILE, path, got=got, wanted="a readable PEM file", hint=hint)
        return None

    def _refuse(self, path: tuple[PathStep, ...], name: str, wanted: str, hint: str) -> None:
        self._report.add(
            codes.PEM, path, got=f"{describe(name)}: another kind of file", wanted=wanted, hint=hint
        )


def _labels(text: str) -> set[str]:
    return {match.group(1) for match in _BLOCK.finditer(text)}
