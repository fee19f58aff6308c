"""Measure the slope and curvature of the loss along a direction, from loss values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from fwdllm_common.layout import Float32Vector

Loss = Callable[[Float32Vector], float]
"""Function that returns the mean loss (nats) at weights of the block, float32 ``[block size]``."""

_FIRST_DROP = 0.01
_LEAST_LOSS = 1e-6
_MOST_TRIALS = 24
_NEAR = 1.25
_MOST_GROWTH = 30.0
_SHORTER = 4.0
_TRUST = 1.25


@dataclass(frozen=True)
class Descent:
    """A step of −``length`` · ĝ: ``slope`` is gᵀĝ, ``curvature`` ĝᵀHĝ, ``drop`` the measured decrease of the loss."""

    slope: float
    curvature: float
    length: float
    drop: float

    @property
    def expected_drop(self) -> float:
        """The decrease by this step for a quadratic loss."""
        return self.length * self.slope - self.length**2 * self.curvature / 2

    @property
    def best_drop(self) -> float:
        """The decrease by a step of the best length for a quadratic loss, (gᵀĝ)² / 2 ĝᵀHĝ.

        If the loss is not quadratic up to that length, it is the measured decrease of this step instead.
        """
        if self.slope <= _NEAR * self.length * self.curvature:
            return self.slope**2 / (2 * self.curvature)
        return max(0.0, self.drop)


def descend(
    loss: Loss, weights: Float32Vector, estimate: Float32Vector, gradient: Float32Vector, guess: Descent | None = None
) -> Descent | None:
    """Find the step from ``weights`` against ``estimate`` (ĝ) of about the best length.

    Each trial evaluates the loss a length ahead and behind. Half the sum of the two changes gives the curvature, and
    with it the best length, which is tried next, until a trial is within a factor of 1.25 of it. Half the difference
    gives the slope. If it is not within a factor of 1.25 of that of ``gradient``, the loss is not quadratic over that
    length, and a shorter one is tried.

    :param weights: float32 ``[block size]``, as are ``estimate`` and ``gradient``.
    :param guess: the descent along a similar estimate, which saves trials.
    :returns: None if the slope is not positive, or was not confirmed at any length.
    """
    slope = float(estimate.astype(np.float64) @ gradient.astype(np.float64))
    if slope <= 0:
        return None
    start = loss(weights)
    length = guess.length if guess is not None else _FIRST_DROP * max(start, _LEAST_LOSS) / slope
    longest = inf
    found: Descent | None = None
    for _ in range(_MOST_TRIALS):
        behind, ahead = (loss(weights + np.float32(side * length) * estimate) for side in (-1, 1))
        tilt = (ahead - behind) / (2 * length * slope)
        if not 1 / _TRUST <= tilt <= _TRUST:  # also if it is NaN
            length, longest = length / _SHORTER, length
            continue
        found = Descent(slope, (ahead + behind - 2 * start) / length**2, length, start - behind)
        best = slope / found.curvature if found.curvature > 0 else inf
        wanted = min(best, length * _MOST_GROWTH, longest / 2)
        if 1 / _NEAR <= wanted / length <= _NEAR:
            break
        length = wanted
    return found
