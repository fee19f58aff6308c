"""How far down a direction leads: the second derivative along it, from loss values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fwdllm_common.layout import Float32Vector

Loss = Callable[[Float32Vector], float]
"""The mean loss at weights of the block, float32 ``[block size]``."""

_FIRST_DROP = 0.01
_LEAST_LOSS = 1e-6
_MOST_TRIALS = 8
_NEAR = 1.5
_MOST_CHANGE = 30.0


@dataclass(frozen=True)
class Descent:
    """A step of ``length`` times −ĝ: ``slope`` is gᵀĝ, ``curvature`` ĝᵀHĝ over its range, ``drop`` how much L fell."""

    slope: float
    curvature: float
    length: float
    drop: float

    @property
    def expected_drop(self) -> float:
        """What this step brings on a quadratic loss: to be compared with ``drop``."""
        return self.length * self.slope - self.length**2 * self.curvature / 2


def descend(loss: Loss, weights: Float32Vector, estimate: Float32Vector, gradient: Float32Vector) -> Descent:
    """Walk from ``weights`` against ``estimate`` (ĝ), about as far as leads down most; all float32 ``[block size]``.

    The curvature is the second difference over ± the step. Its own best length is the next trial, until the two are
    within a factor of 1.5.
    """
    slope = float(estimate.astype(np.float64) @ gradient.astype(np.float64))
    start = loss(weights)
    length = _FIRST_DROP * max(start, _LEAST_LOSS) / abs(slope) if slope else 0.0
    curvature, drop = 0.0, 0.0
    if length == 0:
        return Descent(slope, curvature, length, drop)
    for _ in range(_MOST_TRIALS):
        behind, ahead = (loss(weights + np.float32(side * length) * estimate) for side in (-1, 1))
        curvature, drop = (ahead + behind - 2 * start) / length**2, start - behind
        wanted = abs(slope) / curvature if curvature > 0 else np.inf
        if not np.isfinite(curvature):  # far too far
            wanted = 0.0
        if 1 / _NEAR <= wanted / length <= _NEAR:
            break
        last, length = length, float(np.clip(wanted, length / _MOST_CHANGE, length * _MOST_CHANGE))
    else:
        length = last
    return Descent(slope, curvature, length, drop)
