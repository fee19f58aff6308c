"""The secrets of join tokens: random, used once, stored only as a digest."""

from __future__ import annotations

import hashlib
import secrets

SECRET_CHARACTERS = 43
"""The length of a secret in characters: 32 random bytes in base64url."""


def new_secret() -> str:
    """Return a new secret of 256 random bits."""
    return secrets.token_urlsafe(32)


def secret_digest(secret: str) -> str:
    """Return the SHA-256 (hex) of a secret, which is stored: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
