"""Certificates, keys and what belongs to them: read, checked, and embedded in the snapshot."""

import base64
import re
from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.tree import Report, Tree, describe
from weirgate.shared.config.watched import WatchedFiles

_MAX_BYTES = 4 * 1024 * 1024
#: CRLs of large authorities are long.
_MAX_CRL_BYTES = 16 * 1024 * 1024
_MAX_OCSP_BYTES = 64 * 1024
_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----",
)
_KEY_LABELS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})


class Files:
    """Reads files that a configuration names; what is wrong with them is reported, not raised."""

    def __init__(self, tree: Tree, report: Report, watched: WatchedFiles) -> None:
        self._tree = tree
        self._report = report
        self._watched = watched

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

    def revocations(self, path: tuple[PathStep, ...], name: str) -> str:
        """Return the text of a file with certificate revocation lists; empty after a report."""
        text = self._read(path, name, _MAX_CRL_BYTES)
        if text is None:
            return ""
        if "X509 CRL" not in _labels(text):
            hint = "a DER file is made PEM by: openssl crl -inform DER -in old.crl -out new.crl"
            self._refuse(path, name, "a PEM file with a revocation list (X509 CRL)", hint)
        return text

    def response(self, path: tuple[PathStep, ...], name: str) -> str:
        """Return an OCSP response as base64; empty after a report."""
        data = self._bytes(path, name, _MAX_OCSP_BYTES, "a readable OCSP response")
        if data is None:
            return ""
        if not _is_whole_sequence(data):
            hint = "openssl ocsp -respout writes one; a file that is being written is not whole yet"
            self._refuse(path, name, "a whole OCSP response in DER form", hint)
        return base64.b64encode(data).decode()

    def names(self, path: tuple[PathStep, ...], name: str) -> list[str] | None:
        """Return the names of a directory's files, sorted; ``None`` after a report."""
        try:
            return self._watched.names(self._place(path) / name)
        except OSError as error:
            got, hint = f"{describe(name)}: {(error.strerror or 'an error').lower()}", ""
            if not name.startswith("/"):
                hint = f"paths are relative to {self._tree.nearest(path)[1].file}"
        except ValueError:
            got, hint = "a path with a NUL character", ""
        self._report.add(codes.PEM_FILE, path, got=got, wanted="a readable directory", hint=hint)
        return None

    def _read(self, path: tuple[PathStep, ...], name: str, limit: int = _MAX_BYTES) -> str | None:
        data = self._bytes(path, name, limit, "a readable PEM file")
        return (
            None if data is None else data.decode("ascii", errors="replace").replace("\ufffd", "?")
        )

    def _bytes(
        self, path: tuple[PathStep, ...], name: str, limit: int, wanted: str
    ) -> bytes | None:
        hint = ""
        try:
            data = self._watched.read(self._place(path) / name, limit)
            if len(data) <= limit:
                return data
            got = f"{describe(name)}: beyond {_size(limit)}"
        except PermissionError:
            got = f"{describe(name)}: this user may not read it"
            hint = "give the user that runs Weirgate read permission, for example by group"
        except OSError as error:
            got = f"{describe(name)}: {(error.strerror or 'an error').lower()}"
            if not name.startswith("/"):
                hint = f"paths are relative to {self._tree.nearest(path)[1].file}"
        except ValueError:
            got = "a path with a NUL character"
        self._report.add(codes.PEM_FILE, path, got=got, wanted=wanted, hint=hint)
        return None

    def _place(self, path: tuple[PathStep, ...]) -> Path:
        return self._tree.nearest(path)[1].file.parent

    def _refuse(self, path: tuple[PathStep, ...], name: str, wanted: str, hint: str) -> None:
        self._report.add(
            codes.PEM, path, got=f"{describe(name)}: another kind of file", wanted=wanted, hint=hint
        )


def _labels(text: str) -> set[str]:
    return {match.group(1) for match in _BLOCK.finditer(text)}


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"


def _is_whole_sequence(data: bytes) -> bool:
    """Tell whether the bytes are one DER SEQUENCE, to the last: a file half written is not."""
    if len(data) < 2 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    count = data[1] & 0x7F
    return len(data) == 2 + count + int.from_bytes(data[2 : 2 + count])
