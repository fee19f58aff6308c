"""The device's key and certificate request by OpenSSL, which signs in constant time."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def new_key() -> bytes:
    """Generate a P-256 private key, PKCS#8 PEM (RFC 5208, RFC 5915)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_request(key: bytes) -> bytes:
    """Return a PKCS#10 request (RFC 2986, DER) for the PEM ``key``; no subject, the coordinator decides on names."""
    signer = load_pem_private_key(key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(signer, hashes.SHA256())
    return request.public_bytes(Encoding.DER)
