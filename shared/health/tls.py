"""TLS of a check: the same trust, certificate and pins as the gateways have."""

import asyncio
import base64
import functools
import hashlib
import os
import ssl

from weirgate.shared.health.check import Tls
from weirgate.shared.health.response import BadResponseError

_SEQUENCE = 0x30
_VERSION = 0xA0
#: What stands before the public key in a TBSCertificate without its version (RFC 5280 §4.1):
#: serial number, signature, issuer, validity, subject.
_BEFORE_THE_KEY = 5


@functools.lru_cache(maxsize=256)
def context_of(tls: Tls, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return the context for a pool's checks, which offers these protocols, or leaves it open."""
    context = ssl.create_default_context(cadata=tls.ca_pem)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate_pem:
        _show(context, tls.certificate_pem + "\n" + tls.key_pem)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def check_pins(tls: Tls | None, transport: asyncio.BaseTransport) -> None:
    """Look at the endpoint's key, where the pool has pins.

    Raises:
        BadResponseError: It is none of them.
    """
    if tls is None or not tls.pins:
        return
    session = transport.get_extra_info("ssl_object")
    certificate = session.getpeercert(binary_form=True) if session else None
    key = public_key(certificate or b"")
    if base64.b64encode(hashlib.sha256(key).digest()).decode() not in tls.pins:
        raise BadResponseError("the endpoint's key is none of the pins")


def public_key(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate, both in DER form; empty if there is none.

    What a TLS library has taken for a certificate is well formed, so that this only walks along.
    """
    outer = _content(certificate, 0)
    if outer is None:
        return b""
    fields = _content(certificate, outer[0])
    if fields is None:
        return b""
    at = fields[0]
    if certificate[at] == _VERSION:
        at = _end(certificate, at)
    for _ in range(_BEFORE_THE_KEY):
        at = _end(certificate, at)
    return certificate[at : _end(certificate, at)]


def _content(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the content of a SEQUENCE begins and ends."""
    if len(data) < at + 2 or data[at] != _SEQUENCE:
        return None
    begin, length = _header(data, at)
    return begin, begin + length


def _end(data: bytes, at: int) -> int:
    begin, length = _header(data, at)
    return begin + length


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of an element begins, and its length."""
    first = data[at + 1]
    if first < 0x80:
        return at + 2, first
    begin = at + 2 + (first & 0x7F)
    return begin, int.from_bytes(data[at + 2 : begin])


def _show(context: ssl.SSLContext, pem: str) -> None:
    """Load a certificate with its key; ssl reads files only, and a key must not lie in one."""
    fd = os.memfd_create("weirgate-check", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "w") as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
