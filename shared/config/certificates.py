"""The certificates of a listener: pairs of files, and directories full of them."""

from typing import Any

from weirgate.shared.config import codes
from weirgate.shared.config.embed import Files
from weirgate.shared.config.listeners import Certificate, ClientCertificates, ListenerTls
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.tree import Report, describe

MAX_CERTIFICATES = 10_000
_SUFFIXES = (".pem", ".crt")
_Path = tuple[PathStep, ...]


class CertificateFiles:
    """Embeds the files of ``tls``; what is wrong with them is reported, not raised."""

    def __init__(self, files: Files, report: Report) -> None:
        self._files = files
        self._report = report

    def listener(self, name: str, tls: ListenerTls) -> dict[str, Any]:
        """Return ``tls`` of a listener as it stands in the snapshot."""
        path = ("listeners", name, "tls")
        return {
            "certificates": self._certificates((*path, "certificates"), tls.certificates),
            "minimum_version": tls.lowest_version,
            "alpn": list(tls.alpn),
            "client": tls.client and self._client((*path, "client"), tls.client),
        }

    def _certificates(self, path: _Path, items: tuple[Certificate, ...]) -> list[dict[str, Any]]:
        found = []
        for index, item in enumerate(items):
            if item.directory is not None:
                found += self._directory((*path, index, "directory"), index, item.directory)
            else:
                found.append(self._pair((*path, index), index, item))
        if len(found) > MAX_CERTIFICATES:
            got, wanted = f"{len(found):,} certificates", f"at most {MAX_CERTIFICATES:,}"
            self._report.add(codes.CERTIFICATES, path, got=got, wanted=wanted)
        return found

    def _pair(self, path: _Path, index: int, item: Certificate) -> dict[str, Any]:
        return {
            "certificate_pem": self._files.certificate((*path, "cert"), item.cert or ""),
            "key_pem": self._files.key((*path, "key"), item.key or ""),
            "ocsp": item.ocsp and self._files.response((*path, "ocsp"), item.ocsp),
            "entry": index,
            "file": None,
        }

    def _directory(self, path: _Path, index: int, directory: str) -> list[dict[str, Any]]:
        names = self._files.names(path, directory)
        if names is None:
            return []
        chains = [name for name in names if name.endswith(_SUFFIXES)]
        present, found = set(names), []
        for chain in chains[: MAX_CERTIFICATES + 1]:
            stem = chain[: -len(_SUFFIXES[0])]
            if f"{stem}.key" not in present:
                hint = f"put {stem}.key beside it; what is no certificate of ours stands elsewhere"
                self._refuse(path, f"{describe(f'{directory}/{chain}')} without its key", hint)
            elif chain.endswith(_SUFFIXES[1]) and stem + _SUFFIXES[0] in present:
                self._refuse(
                    path,
                    f"{describe(f'{directory}/{chain}')} beside {stem}.pem",
                    "remove one of the two",
                )
            else:
                found.append(self._member(path, index, f"{directory}/{stem}", chain, present))
        if not chains:
            self._refuse(path, f"{describe(directory)}, a directory without a certificate", "")
        return found

    def _member(
        self, path: _Path, index: int, stem: str, chain: str, present: set[str]
    ) -> dict[str, Any]:
        response = f"{chain[: -len(_SUFFIXES[0])]}.ocsp"
        file = stem + chain[-len(_SUFFIXES[0]) :]
        return {
            "certificate_pem": self._files.certificate(path, file),
            "key_pem": self._files.key(path, f"{stem}.key"),
            "ocsp": self._files.response(path, f"{stem}.ocsp") if response in present else None,
            "entry": index,
            "file": file,
        }

    def _refuse(self, path: _Path, got: str, hint: str) -> None:
        wanted = "NAME.pem or NAME.crt with NAME.key for each certificate"
        self._report.add(codes.CERTIFICATES, path, got=got, wanted=wanted, hint=hint)

    def _client(self, path: _Path, client: ClientCertificates) -> dict[str, Any]:
        return {
            "ca_pem": self._files.certificate((*path, "ca"), client.ca),
            "mode": client.mode,
            "crl_pem": [
                self._files.revocations((*path, "crl", index), name)
                for index, name in enumerate(client.crl)
            ],
        }
