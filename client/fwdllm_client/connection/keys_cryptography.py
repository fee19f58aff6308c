"""The device's key and the request for a certificate, by OpenSSL, whose time does not depend on the key's bits."""

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
    """A fresh P-256 private key, PKCS#8 PEM (RFC 5208, RFC 5915)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_request(key: bytes) -> bytes:
    """A PKCS#10 request (RFC 2986) for the key, DER: no subject, no attributes; the coordinator decides on names."""
    signer = load_pem_private_key(key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(signer, hashes.SHA256())
    return request.public_bytes(Encoding.DER)
