"""The holder of a certificate: the organisation in its subject is the holder's role."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID


class Role(StrEnum):
    """The role of a certificate's holder, which decides the calls that it may make."""

    COORDINATOR = "fwdllm coordinator"
    OPERATOR = "fwdllm operator"
    DEVICE = "fwdllm device"


ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fwdllm certificate authority")])
"""The name of the coordinator's own authority."""
OWN_PREFIX = "own-"
"""The prefix of the ids of devices whose certificates are from the operator's own authority."""


@dataclass(frozen=True)
class Holder:
    """The holder of a certificate: its ``role``, None where it has none, and its common ``name``.

    ``issued_at`` is the start of the certificate's validity in seconds since 1970.
    """

    role: Role | None
    name: str
    issued_at: float = field(default=0.0, compare=False)

    @property
    def is_own(self) -> bool:
        """Whether the certificate is from the operator's own authority."""
        return self.name.startswith(OWN_PREFIX)


def subject_of(role: Role, name: str) -> x509.Name:
    """Return the subject of a certificate for ``name`` in ``role``."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


# Read at every call of a device, mostly for devices that are connected now; an entry takes about a kilobyte.
@lru_cache(maxsize=16_384)
def holder_of(certificate_pem: bytes) -> Holder:
    """Return the holder of a certificate whose signature the caller has verified (TLS does).

    A certificate of another authority makes its holder a device, whatever its subject says, with an id of its own
    prefix.
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
