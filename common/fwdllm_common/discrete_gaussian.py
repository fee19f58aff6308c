"""Noise of a discrete normal distribution, exactly: Canonne, Kamath and Steinke, NeurIPS 2020, algorithms 1 to 3.

P(x) ∝ exp(−x²/2σ²) over the integers. Only comparisons of random integers are made, so that no rounding of a float
gives away what the noise hides (Mironov, CCS 2012).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from math import isqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RandomBelow: TypeAlias = Callable[[int], int]
"""Returns an integer from 0 to below its argument, each with the same probability."""


def discrete_gaussian(variance: int, count: int, random_below: RandomBelow = secrets.randbelow) -> NDArray[np.int64]:
    """Return ``count`` independent samples with σ² = ``variance``, 1 to 2¹⁰⁰, int64 ``[count]``."""
    return np.array([_gaussian(variance, random_below) for _ in range(count)], dtype=np.int64)


def _gaussian(variance: int, random_below: RandomBelow) -> int:
    scale = isqrt(variance) + 1
    while True:
        found = _laplace(scale, random_below)
        # Accepted with the probability exp(−(|x| − σ²/t)² / 2σ²).
        distance = abs(found) * scale - variance
        if _happens_exp(distance * distance, 2 * variance * scale * scale, random_below):
            return found


def _laplace(scale: int, random_below: RandomBelow) -> int:
    """Return x with P(x) ∝ exp(−|x|/scale)."""
    while True:
        rest = random_below(scale)
        if not _happens_exp_of_a_part(rest, scale, random_below):
            continue
        whole = 0
        while _happens_exp_of_a_part(1, 1, random_below):
            whole += 1
        found = rest + scale * whole
        negative = random_below(2)
        if found or not negative:  # or zero would count twice
            return -found if negative else found


def _happens_exp(numerator: int, denominator: int, random_below: RandomBelow) -> bool:
    """Return True with the probability exp(−numerator/denominator)."""
    while numerator > denominator:
        if not _happens_exp_of_a_part(1, 1, random_below):
            return False
        numerator -= denominator
    return _happens_exp_of_a_part(numerator, denominator, random_below)


def _happens_exp_of_a_part(numerator: int, denominator: int, random_below: RandomBelow) -> bool:
    """Return the same for a quotient of at most 1 (von Neumann)."""
    tries = 1
    while random_below(denominator * tries) < numerator:
        tries += 1
    return tries % 2 == 1
