"""Key agreement, masks, sealed shares and secret sharing, from ``cryptography`` and ``shamirs``.

Every key is of one use: HKDF-SHA256 (RFC 5869) derives it with the session's id as salt, and with its purpose and the
members that it is for. A nonce can therefore be zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shamirs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError, IntegrityError

SECRET_BYTES = 16
PRIME = (1 << 128) + 51
"""Order of the field of shares: the least prime that is larger than every secret."""
SHARE_BYTES = 17
SEALED_BYTES = 2 * SHARE_BYTES + 16
"""Two shares and the tag of ChaCha20-Poly1305."""

Words = NDArray[np.uint64]


def derived(secret: bytes, session_id: bytes, purpose: str, *members: int, size: int = 32) -> bytes:
    """Derive ``size`` bytes for a ``purpose`` and for ``members``, by HKDF-SHA256."""
    info = (
        b"fwdllm secure aggregation 1 " + purpose.encode() + b"".join(b"\0" + n.to_bytes(4, "little") for n in members)
    )
    return HKDF(algorithm=SHA256(), length=size, salt=session_id, info=info).derive(secret)


def masking_key(secret: bytes, session_id: bytes) -> X25519PrivateKey:
    """Return the private key that agrees on masks; its ``secret`` is what peers hold shares of."""
    return X25519PrivateKey.from_private_bytes(derived(secret, session_id, "masking key"))


def agreed(own: X25519PrivateKey, other: bytes) -> bytes:
    """Return the secret that two keys agree on (RFC 7748); ``other`` is the other one's public key.

    :raises BadInputError: the public key is a point of low order, which agrees on the same secret with everybody.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise BadInputError("a public key of a member of the cohort is not valid") from error


def check_public_key(key: bytes) -> None:
    """Check that keys can agree with this one.

    :raises BadInputError: it is a point of low order.
    """
    agreed(X25519PrivateKey.generate(), key)


def commitment(self_mask: bytes, session_id: bytes) -> bytes:
    """Return 32 bytes that only this self mask has and that do not reveal it."""
    return derived(self_mask, session_id, "commitment")


def self_mask_words(self_mask: bytes, session_id: bytes, length: int) -> Words:
    """Expand a self mask to uint64 ``[length]``."""
    return _keystream(derived(self_mask, session_id, "self mask"), length)


def pair_mask_words(agreement: bytes, session_id: bytes, one: int, other: int, length: int) -> Words:
    """Expand the mask that two members share to uint64 ``[length]``: the lower number adds it, the other subtracts."""
    return _keystream(derived(agreement, session_id, "pair mask", min(one, other), max(one, other)), length)


def seal(agreement: bytes, session_id: bytes, sender: int, receiver: int, shares: bytes) -> bytes:
    """Encrypt and authenticate shares for ``receiver``."""
    return ChaCha20Poly1305(_sealing_key(agreement, session_id, sender, receiver)).encrypt(bytes(12), shares, None)


def unseal(agreement: bytes, session_id: bytes, sender: int, receiver: int, sealed: bytes) -> bytes:
    """Decrypt what :func:`seal` made.

    :raises IntegrityError: it was changed, or is from or for another member or session.
    """
    try:
        return ChaCha20Poly1305(_sealing_key(agreement, session_id, sender, receiver)).decrypt(bytes(12), sealed, None)
    except InvalidTag as error:
        raise IntegrityError(
            f"the sealed shares of member {sender} are not for this cohort's member {receiver}"
        ) from error


def split(secret: bytes, holders: int, needed: int) -> list[bytes]:
    """Split a secret of 16 bytes into a share for each of ``holders``, of which ``needed`` restore it (Shamir 1979)."""
    found = shamirs.shares(int.from_bytes(secret, "little"), holders, modulus=PRIME, threshold=needed, compact=True)
    return [share.value.to_bytes(SHARE_BYTES, "little") for share in found]


def joined(shares: Mapping[int, bytes]) -> bytes:
    """Restore the secret from as many shares as it needs, by their places among the holders from 0 on.

    This is Lagrange's interpolation at 0 with one inversion a share: ``shamirs.interpolate`` has one for each pair.
    """
    points = [(place + 1, int.from_bytes(share, "little")) for place, share in shares.items()]
    total = 0
    for x, y in points:
        above = below = 1
        for other, _ in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        total += y * above * pow(below, -1, PRIME)
    return (total % PRIME).to_bytes(SHARE_BYTES, "little")[:SECRET_BYTES]  # of right shares the last byte is zero


def _sealing_key(agreement: bytes, session_id: bytes, sender: int, receiver: int) -> bytes:
    return derived(agreement, session_id, "sealed shares", sender, receiver)


def _keystream(key: bytes, length: int) -> Words:
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)
