"""How much the loss is expected to fall with a number of directions; derived in ``docs/profiler.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from fwdllm_server.profiler.curvature import Descent


@dataclass(frozen=True)
class ExpectedProgress:
    """Of a step of the best length along ĝ.

    ``gradient_sq`` is ‖g‖². The curvature along ĝ of K directions, over ‖g‖², is ``own_curvature`` (that along g) plus
    ``noise_curvature`` / K (that of what comes along beside g). ``error`` is the relative standard error of a drop.
    """

    gradient_sq: float
    own_curvature: float
    noise_curvature: float
    error: float

    @property
    def enough(self) -> float | None:
        """Directions that bring half of what the true gradient would; None if there is no end to it."""
        return self.noise_curvature / self.own_curvature if self.own_curvature > 0 else None

    def drop(self, directions: float) -> float:
        """By how much the loss falls with ``directions``, above 0."""
        return self.gradient_sq / (2 * (self.own_curvature + self.noise_curvature / directions))


def expected_progress(own: Descent, groups: Sequence[Descent], directions: int) -> ExpectedProgress | None:
    """From the descent along g and those along several ĝ of ``directions`` each; None if these have no best length.

    What is averaged is ĝᵀHĝ / (gᵀĝ)², twice the inverse of a drop, which a curvature near zero does not blow up.
    """
    gradient_sq = own.slope
    curvatures = [gradient_sq * descent.curvature / descent.slope**2 for descent in groups if descent.slope > 0]
    if len(curvatures) < len(groups) or (mean := fmean(curvatures)) <= 0:
        return None
    own_curvature = min(max(0.0, own.curvature / gradient_sq), mean)
    error = stdev(curvatures) / sqrt(len(curvatures)) / mean
    return ExpectedProgress(gradient_sq, own_curvature, directions * (mean - own_curvature), error)
