"""The device's key and certificate request in pure Python (DESIGN §2, invariant 6).

The ``ecdsa`` package signs a single time per key, on the device, with RFC 6979 nonces.
"""

from __future__ import annotations

from hashlib import sha256

from ecdsa import NIST256p, SigningKey, der
from ecdsa.util import sigencode_der

_EC_PUBLIC_KEY = (1, 2, 840, 10045, 2, 1)
_ECDSA_WITH_SHA256 = (1, 2, 840, 10045, 4, 3, 2)


def new_key() -> bytes:
    """Generate a P-256 private key, PKCS#8 PEM (RFC 5208, RFC 5915)."""
    signer = SigningKey.generate(curve=NIST256p)
    public_point = der.encode_bitstring(signer.verifying_key.to_string("uncompressed"), 0)
    private = der.encode_sequence(
        der.encode_integer(1),
        der.encode_octet_string(signer.to_string()),
        der.encode_constructed(1, public_point),
    )
    algorithm = der.encode_sequence(der.encode_oid(*_EC_PUBLIC_KEY), der.encode_oid(*NIST256p.oid))
    # ecdsa's own to_pem(format="pkcs8") writes version 1 (RFC 5958), which the TLS in gRPC cannot read.
    wrapped = der.encode_sequence(der.encode_integer(0), algorithm, der.encode_octet_string(private))
    return bytes(der.topem(wrapped, "PRIVATE KEY"))


def certificate_request(key: bytes) -> bytes:
    """Return a PKCS#10 request (RFC 2986, DER) for the PEM ``key``; no subject, the coordinator decides on names."""
    signer = SigningKey.from_pem(key)
    info = der.encode_sequence(
        der.encode_integer(0),
        der.encode_sequence(),
        signer.verifying_key.to_der(),
        der.encode_constructed(0, b""),
    )
    signature = signer.sign_deterministic(info, hashfunc=sha256, sigencode=sigencode_der)
    return bytes(
        der.encode_sequence(
            info,
            der.encode_sequence(der.encode_oid(*_ECDSA_WITH_SHA256)),
            der.encode_bitstring(signature, 0),
        )
    )
