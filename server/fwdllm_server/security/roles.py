"""Who a certificate belongs to: the organisation in its subject is the holder's role."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID


class Role(StrEnum):
    """What the holder of a certificate may do."""

    COORDINATOR = "fwdllm coordinator"
    OPERATOR = "fwdllm operator"
    DEVICE = "fwdllm device"


@dataclass(frozen=True)
class Holder:
    """``role`` of the certificate, None for one that this software did not issue; ``name`` is its common name."""

    role: Role | None
    name: str


def subject_of(role: Role, name: str) -> x509.Name:
    """The subject of a certificate for ``name`` in ``role``."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


# Every call of a device asks, mostly with the certificates of the devices that are connected now.
@lru_cache(maxsize=1024)
def holder_of(certificate_pem: bytes) -> Holder:
    """Whom a certificate was issued to; the caller has verified its signature (TLS does)."""
    subject = x509.load_pem_x509_certificate(certificate_pem).subject
    organisation, name = _value(subject, NameOID.ORGANIZATION_NAME), _value(subject, NameOID.COMMON_NAME)
    return Holder(Role(organisation) if organisation in list(Role) else None, name)


def _value(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(oid)
    return str(found[0].value) if len(found) == 1 else ""
