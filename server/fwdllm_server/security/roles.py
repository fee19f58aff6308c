"""Who a certificate belongs to: the organisation in its subject is the holder's role."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID


class Role(StrEnum):
    """What the holder of a certificate may do."""

    COORDINATOR = "fwdllm coordinator"
    OPERATOR = "fwdllm operator"
    DEVICE = "fwdllm device"


ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fwdllm certificate authority")])
"""The name of our own authority."""
OWN_PREFIX = "own-"
"""What the ids of devices begin with that have their certificates from an authority of the operator's own."""


@dataclass(frozen=True)
class Holder:
    """``role`` of the certificate, None for one without any; ``name`` is its common name.

    ``issued_at`` is the beginning of its validity, seconds since 1970.
    """

    role: Role | None
    name: str
    issued_at: float = field(default=0.0, compare=False)

    @property
    def is_own(self) -> bool:
        """Whether the certificate is from an authority of the operator's own."""
        return self.name.startswith(OWN_PREFIX)


def subject_of(role: Role, name: str) -> x509.Name:
    """The subject of a certificate for ``name`` in ``role``."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


# Every call of a device asks, mostly with the certificates of the devices that are connected now: a kilobyte for each.
@lru_cache(maxsize=16_384)
def holder_of(certificate_pem: bytes) -> Holder:
    """Whom a certificate was issued to; the caller has verified its signature (TLS does).

    Of another authority than ours there are only devices, whatever the subject says, and none with an id of ours.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    subject, issued_at = certificate.subject, certificate.not_valid_before_utc.timestamp()
    organisation, name = _value(subject, NameOID.ORGANIZATION_NAME), _value(subject, NameOID.COMMON_NAME)
    if certificate.issuer != ISSUER:
        return Holder(Role.DEVICE, f"{OWN_PREFIX}{name}", issued_at)
    return Holder(Role(organisation) if organisation in list(Role) else None, name, issued_at)


def _value(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(oid)
    return str(found[0].value) if len(found) == 1 else ""
