"""The coordinator's own certificate authority: ECDSA P-256, made by ``init``."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from fwdllm_common.errors import RefusedError, StorageError
from fwdllm_common.files import write_atomically
from fwdllm_server.security.roles import ISSUER, Role, subject_of

CA_LIFETIME = datetime.timedelta(days=3650)
# A new certificate must be valid at once for devices whose clocks are late.
_CLOCK_SKEW = datetime.timedelta(hours=1)


class KeyAndCertificate(NamedTuple):
    """A private key and its certificate, both PEM; the issuer's certificate may follow."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True)
class CertificateAuthority:
    """The authority that signs for coordinator, operator and devices; times are seconds since 1970 UTC."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, now: float) -> CertificateAuthority:
        """Create an authority that is valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(ISSUER, ISSUER, key.public_key(), now, _moment(now) + CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> CertificateAuthority:
        """Load the authority from its PEM files.

        :raises StorageError: they cannot be read, or are not an authority.
        """
        try:
            loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise StorageError(f"cannot read the authority {certificate} and {key} ({error}); restore them") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
            raise StorageError(f"{key} is not the key of {certificate}; restore them from a backup")
        return cls(loaded, private)

    def check_valid(self, now: float) -> datetime.datetime:
        """Return the end of the authority's validity, UTC.

        :raises RefusedError: it is expired or not yet valid by this machine's clock: no device would accept its server.
        """
        begins, ends = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        if _moment(now) < begins:
            raise RefusedError(
                f"the clock says {_moment(now):%F %H:%M} UTC, before the authority was made; set the clock"
            )
        if _moment(now) >= ends:
            raise RefusedError(
                f"the authority of this server ended {ends:%F}, and no device accepts it any more; "
                "make a new server with 'fwdllm-server init', whose devices join again"
            )
        return ends

    def save(self, certificate: Path, key: Path) -> None:
        """Write certificate and key as PEM; only the owner can read the key.

        :raises StorageError: they cannot be written.
        """
        write_atomically(key, _key_pem(self.key), mode=0o600)
        write_atomically(certificate, self.certificate_pem)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate's DER bytes, hex, which a join token carries."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue_server(self, hosts: Iterable[str], now: float) -> KeyAndCertificate:
        """Issue a server's certificate for ``hosts`` (names or IP addresses), followed by the authority's."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
        issued = self._issue_with_key(Role.COORDINATOR, "coordinator", ExtendedKeyUsageOID.SERVER_AUTH, now, names)
        # A device that joins knows only the authority's fingerprint: the handshake must present the authority.
        return KeyAndCertificate(issued.key, issued.certificate + self.certificate_pem)

    def issue_operator(self, now: float) -> KeyAndCertificate:
        """Issue the certificate of the command line."""
        return self._issue_with_key(Role.OPERATOR, "operator", ExtendedKeyUsageOID.CLIENT_AUTH, now)

    def sign_device(
        self, public_key: ec.EllipticCurvePublicKey, device_id: str, now: float, days: int
    ) -> x509.Certificate:
        """Sign a device's certificate, valid for ``days`` days."""
        lifetime = datetime.timedelta(days=days)
        subject = subject_of(Role.DEVICE, device_id)
        return self._sign(subject, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, now, lifetime)

    def _issue_with_key(
        self,
        role: Role,
        name: str,
        usage: ObjectIdentifier,
        now: float,
        names: x509.SubjectAlternativeName | None = None,
    ) -> KeyAndCertificate:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(subject_of(role, name), key.public_key(), usage, now, CA_LIFETIME, names)
        return KeyAndCertificate(_key_pem(key), certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        usage: ObjectIdentifier,
        now: float,
        lifetime: datetime.timedelta,
        names: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        # No certificate outlives its authority.
        end = min(_moment(now) + lifetime, self.certificate.not_valid_after_utc)
        builder = _builder(subject, self.certificate.subject, public_key, now, end)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=_moment(now) - _CLOCK_SKEW,
        not_valid_after=end,
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _moment(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(now), tz=datetime.UTC)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
