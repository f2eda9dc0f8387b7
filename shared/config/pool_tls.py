"""TLS towards the endpoints of a pool: trust, an own certificate, pinned keys."""

import base64
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from weirgate.shared.config import codes
from weirgate.shared.config.base import Many, Section, refusal
from weirgate.shared.config.http import HostPattern
from weirgate.shared.config.scalars import FileName

MAX_PINS = 100
_PIN_BYTES = 32
_PIN_FORM = '"sha256/" and the base64 of a SHA-256 hash'


def _pin(text: str) -> str:
    """Return the base64 of a pin."""
    kind, slash, value = text.partition("/")
    try:
        whole = len(base64.b64decode(value, validate=True)) == _PIN_BYTES
    except ValueError:
        whole = False
    if kind != "sha256" or not slash or not whole:
        hint = "openssl x509 -pubkey, openssl pkey -pubin -outform DER and openssl dgst make one"
        raise refusal(codes.PIN, _PIN_FORM, hint)
    return value


Pin = Annotated[
    str, AfterValidator(_pin), WithJsonSchema({"type": "string", "pattern": "^sha256/"})
]


class PoolCertificate(Section):
    """What Weirgate shows of itself to endpoints that ask."""

    cert: FileName = Field(
        description="PEM file with the certificate and its intermediates, leaf first. Watched."
    )
    key: FileName = Field(description="PEM file with the unencrypted private key. Watched.")


class PoolTls(Section):
    """TLS towards the endpoints."""

    server_name: HostPattern | None = Field(
        default=None,
        description="Name to ask for (SNI) and to check the certificate against. Default: the host "
        "part of the endpoint's address.",
    )
    ca: FileName | None = Field(
        default=None,
        description="PEM file with the authorities to trust. Default: the system's.",
    )
    certificate: PoolCertificate | None = Field(
        default=None,
        description="Shown to endpoints that ask for one (mutual TLS), by checks, too. Default: "
        "none.",
    )
    pins: Annotated[Many[Pin], Field(max_length=MAX_PINS)] = Field(
        default=(),
        description="`sha256/BASE64` of public keys (SubjectPublicKeyInfo, as in RFC 7469), of "
        "which an endpoint must have one, besides all else that is verified. Keep the next key's "
        "pin here before you change it. Default: any key.",
    )
    danger_skip_verify: bool = Field(
        default=False,
        description="true accepts any certificate: encryption against a passive listener, none "
        "against an active one.",
    )
