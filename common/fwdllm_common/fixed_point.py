"""Scalars as fixed-point integers, so that their sum has no order (DESIGN §2, invariant 3)."""

from __future__ import annotations

import math

SCALE = 1 << 24
"""Units in 1."""
MAX_MAGNITUDE = 1 << 16
"""Largest |directional derivative| that is accepted; with a weight of at most 2² and 2¹⁶ directions a round,
the sum stays below 2⁵⁸."""
MAX_WEIGHT = 1 << 2
"""Largest weight of a scalar: a slow device measures few directions, and one that counted for all that its examples are
worth would drown the others' with the noise of its few."""
MAX_DIRECTIONS = 1 << 16
MAX_ORTHOGONAL_DIRECTIONS = 1 << 20
"""Each of many devices may measure as many as there are coordinates: the sum stays at 2⁶²."""
MAX_GAUSSIAN_DIRECTIONS = 1 << 15
"""A coordinate of a Gaussian direction is up to 32 units: fewer of them keep the sum below 2⁶²."""


class UnusableScalarError(ValueError):
    """A scalar that is NaN, infinite or out of bounds."""


def to_fixed_point(value: float) -> int:
    """``value`` in units of 2⁻²⁴, rounded half to even.

    :raises UnusableScalarError: it is NaN, infinite or larger than :data:`MAX_MAGNITUDE`.
    """
    if not math.isfinite(value):
        raise UnusableScalarError("not finite")
    if abs(value) > MAX_MAGNITUDE:
        raise UnusableScalarError(f"larger than {MAX_MAGNITUDE}")
    return round(value * SCALE)
