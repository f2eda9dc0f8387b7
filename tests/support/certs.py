"""Certificates made on the spot by a certificate authority of the test run."""

import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trustme


@cache
def authority() -> trustme.CA:
    """The authority that every client of the tests trusts."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@dataclass(frozen=True)
class Files:
    """A certificate and its key on disk."""

    cert: Path
    key: Path

    def yaml(self) -> dict[str, str]:
        """Return the entry of a listener's ``tls.certificates``."""
        return {"cert": str(self.cert), "key": str(self.key)}


def issue(directory: Path, *names: str) -> Files:
    """Write a certificate for these names."""
    stem = names[0].replace("*", "wildcard")
    files = Files(directory / f"{stem}.pem", directory / f"{stem}.key")
    leaf = authority().issue_cert(*names, key_type=trustme.KeyType.ECDSA)
    leaf.private_key_pem.write_to_path(files.key)
    files.cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return files


def authority_file(directory: Path) -> Path:
    """Write the authority's certificate, for clients that take a file."""
    path = directory / "authority.pem"
    authority().cert_pem.write_to_path(path)
    return path


def client_context(
    *, version: ssl.TLSVersion | None = None, alpn: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """A client that trusts only the authority; ``version`` pins one TLS version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def server_context(*names: str) -> ssl.SSLContext:
    """A server that has a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context
