"""The check of a device's certificate request: it proves that the sender holds the private key."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fwdllm_common.errors import BadInputError


@dataclass(frozen=True)
class DeviceKey:
    """A public key whose private half signed the request; ``sha256`` (hex) identifies the device."""

    public_key: ec.EllipticCurvePublicKey
    sha256: str


def parse_request(der: bytes) -> DeviceKey:
    """Return the key of a PKCS#10 request (DER); whatever else the request asks for is ignored.

    :raises BadInputError: it is not such a request, not ECDSA P-256, or not signed by its own key.
    """
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError("certificate_request is not a PKCS#10 request in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not signed:
        raise BadInputError("certificate_request is not signed by an ECDSA P-256 key of its own")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return DeviceKey(key, digest.finalize().hex())
