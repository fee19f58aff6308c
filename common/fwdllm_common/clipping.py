"""A device's part of a round, held within a norm that is exact: what one device can change of a sum (docs/privacy.md).

Of a block measured along K of the n orthogonal directions of a frame, the estimate ĝ = (1/K) Σ c_k v_k has the norm
√n/K · ‖c‖ at most, and exactly that before the frame's constant column is left out: directions are orthogonal and of
length √n. So scalars alone bound the gradient of the whole model, without any rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.fixed_point import SCALE

_BITS = 62
"""Of the factor that shortens a vector; it is rounded down."""


class Part(NamedTuple):
    """A device's scalars of one block: fixed-point ``values``, int64 ``[K]``, of a frame of ``order`` directions."""

    values: NDArray[np.int64]
    order: int


def norm_squared(parts: Sequence[Part]) -> Fraction:
    """Return the square of the bound on the norm of the gradient that these scalars are an estimate of."""
    return sum(
        (
            Fraction(part.order * sum(value * value for value in part.values.tolist()), len(part.values) ** 2)
            for part in parts
        ),
        Fraction(0),
    ) / (SCALE * SCALE)


def clipped(parts: Sequence[Part], clip: float) -> Sequence[NDArray[np.int64]]:
    """Return the values of each part, all shortened by one factor if the norm is above ``clip``; then it is within it.

    Each value is rounded towards zero, so that the bound is exact.
    """
    squared, bound = norm_squared(parts), Fraction(clip) ** 2
    if squared <= bound:
        return [part.values for part in parts]
    ratio = bound / squared
    factor = isqrt((ratio.numerator << 2 * _BITS) // ratio.denominator)
    return [
        np.array(
            [value * factor >> _BITS if value >= 0 else -(-value * factor >> _BITS) for value in part.values.tolist()],
            dtype=np.int64,
        )
        for part in parts
    ]


def noise_variance(share: float, clip: float, count: int, order: int) -> int:
    """Return the variance, in squared units of fixed point, of the noise of each of ``count`` scalars of a frame.

    In the norm of :func:`clipped` noise has the variance ``share`` · ``clip``² in each coordinate. It is rounded up.
    """
    return max(1, ceil(Fraction(share) * Fraction(clip) ** 2 * SCALE * SCALE * Fraction(count * count, order)))
