"""Join secrets: random, one-time, and never stored."""

from __future__ import annotations

import hashlib
import secrets

SECRET_CHARACTERS = 43
"""Length of a secret: 32 random bytes in base64url."""


def new_secret() -> str:
    """A fresh secret of 256 random bits."""
    return secrets.token_urlsafe(32)


def secret_digest(secret: str) -> str:
    """What the store keeps of a secret, hex SHA-256: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
