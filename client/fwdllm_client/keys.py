"""The device's key and the request for a certificate, in pure Python (DESIGN §2, invariant 6).

The ``ecdsa`` package signs once, at home, with RFC 6979 nonces; from then on the key is used by gRPC's own TLS.
"""

from __future__ import annotations

from hashlib import sha256

from ecdsa import NIST256p, SigningKey, der
from ecdsa.util import sigencode_der

_ECDSA_WITH_SHA256 = (1, 2, 840, 10045, 4, 3, 2)


def new_key() -> bytes:
    """A fresh P-256 private key, PKCS#8 PEM."""
    return bytes(SigningKey.generate(curve=NIST256p).to_pem(format="pkcs8"))


def certificate_request(key: bytes) -> bytes:
    """A PKCS#10 request (RFC 2986) for the key, DER: no subject, no attributes; the coordinator decides on names."""
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
