"""Certificate authorities of the tests' own making: for what trustme has no word for.

Certificates with URIs, those that have expired or are revoked, lists that revoke them, and OCSP
responses.
"""

import base64
import datetime as dt
import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_DAY = dt.timedelta(days=1)
_PEM = serialization.Encoding.PEM
_DER = serialization.Encoding.DER


def new_key(kind: str = "ecdsa") -> Key:
    """Return a fresh key: ``ecdsa`` or ``rsa``."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, in files."""

    certificate: x509.Certificate
    cert: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def pin(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public = self.certificate.public_key().public_bytes(_DER, form)
        return "sha256/" + base64.b64encode(hashlib.sha256(public).digest()).decode()

    def yaml(self) -> dict[str, str]:
        """Return the entry of ``certificates``."""
        return {"cert": str(self.cert), "key": str(self.key)}

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """An authority that signs whatever it is asked to."""

    def __init__(self, name: str = "clients") -> None:
        self._key = new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self.name, self._key, days=3650)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(own, critical=False)
        self.certificate = builder.add_extension(usage, critical=True).sign(
            self._key, hashes.SHA256()
        )

    def write(self, path: Path) -> Path:
        """Write its certificate."""
        path.write_bytes(self.certificate.public_bytes(_PEM))
        return path

    def issue(
        self,
        directory: Path,
        stem: str,
        *,
        names: Sequence[x509.GeneralName] = (),
        organization: str = "Example",
        expired: bool = False,
        kind: str = "ecdsa",
        key: Key | None = None,
    ) -> Issued:
        """Write ``STEM.pem`` and ``STEM.key``, each at once for whoever reads meanwhile.

        The subject is ``CN=STEM,O=ORGANIZATION``.
        """
        own = key or new_key(kind)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, stem),
            ]
        )
        builder = self._builder(subject, own, days=-1 if expired else 30)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        builder = builder.add_extension(self._identifier(), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        form, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        issued = Issued(certificate, directory / f"{stem}.pem", directory / f"{stem}.key")
        put(issued.key, own.private_bytes(_PEM, form, bare))
        put(issued.cert, certificate.public_bytes(_PEM))
        return issued

    def revoke(self, path: Path, *revoked: Issued) -> Path:
        """Write the list that revokes these, and no others."""
        now = _now()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now - _DAY).next_update(now + _DAY)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        builder = builder.add_extension(self._identifier(), critical=False)
        for issued in revoked:
            entry = x509.RevokedCertificateBuilder()
            entry = entry.serial_number(issued.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - _DAY).build())
        put(path, builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        return path

    def respond(self, path: Path, issued: Issued, *, days: int = 1) -> Path:
        """Write an OCSP response that says ``good``."""
        now = _now()
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=issued.certificate,
            issuer=self.certificate,
            algorithm=hashes.SHA1(),  # how OCSP names certificates
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now - _DAY,
            next_update=now + days * _DAY,
            revocation_time=None,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, self.certificate)
        put(path, builder.sign(self._key, hashes.SHA256()).public_bytes(_DER))
        return path

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def _builder(self, subject: x509.Name, key: Key, *, days: int) -> x509.CertificateBuilder:
        now = _now()
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - 30 * _DAY).not_valid_after(now + days * _DAY)


def put(path: Path, data: bytes) -> None:
    """Replace a file as a whole."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(data)
    scratch.replace(path)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
