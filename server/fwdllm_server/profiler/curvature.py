"""How far down a direction leads: slope and curvature along it, from loss values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from fwdllm_common.layout import Float32Vector

Loss = Callable[[Float32Vector], float]
"""The mean loss at weights of the block, float32 ``[block size]``."""

_FIRST_DROP = 0.01
_LEAST_LOSS = 1e-6
_MOST_TRIALS = 24
_NEAR = 1.25
_MOST_GROWTH = 30.0
_SHORTER = 4.0
_TRUST = 1.25


@dataclass(frozen=True)
class Descent:
    """A step of ``length`` times −ĝ: ``slope`` is gᵀĝ, ``curvature`` ĝᵀHĝ over its range, ``drop`` how much L fell."""

    slope: float
    curvature: float
    length: float
    drop: float

    @property
    def expected_drop(self) -> float:
        """What this step brings on a quadratic loss."""
        return self.length * self.slope - self.length**2 * self.curvature / 2

    @property
    def best_drop(self) -> float:
        """What a step of the best length brings on a quadratic loss, (gᵀĝ)² / 2 ĝᵀHĝ.

        Where the loss ceases to be one before that length is reached: what this step, the longest until there, brought.
        """
        if self.slope <= _NEAR * self.length * self.curvature:
            return self.slope**2 / (2 * self.curvature)
        return max(0.0, self.drop)


def descend(
    loss: Loss, weights: Float32Vector, estimate: Float32Vector, gradient: Float32Vector, guess: Descent | None = None
) -> Descent | None:
    """Walk from ``weights`` against ``estimate`` (ĝ) about as far as leads down most; all float32 ``[block size]``.

    The loss is tried on both sides. Half the sum of the two changes is the curvature's, from which follows the best
    length, tried next, until a trial is within a factor of 1.25 of it. Half their difference is the slope's: where it
    is not within a factor of 1.25 of ``gradient``'s, the loss is no quadratic one over that length, and shorter ones
    are tried. ``guess``, the descent along a similar estimate, saves trials. None if there is no slope, or it is not
    found at any length.
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
        if not 1 / _TRUST <= tilt <= _TRUST:  # nor is NaN
            length, longest = length / _SHORTER, length
            continue
        found = Descent(slope, (ahead + behind - 2 * start) / length**2, length, start - behind)
        best = slope / found.curvature if found.curvature > 0 else inf
        wanted = min(best, length * _MOST_GROWTH, longest / 2)
        if 1 / _NEAR <= wanted / length <= _NEAR:
            break
        length = wanted
    return found
