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
    def enough(self) -> float:
        """Directions that bring half of what the true gradient would."""
        return self.noise_curvature / self.own_curvature

    def drop(self, directions: float) -> float:
        """By how much the loss falls with ``directions``, above 0."""
        return self.gradient_sq / (2 * (self.own_curvature + self.noise_curvature / directions))


def expected_progress(
    own: Descent | None, groups: Sequence[Descent | None], directions: int
) -> ExpectedProgress | None:
    """From the descent along g and those along several ĝ of ``directions`` each; None if one of them leads nowhere.

    What is averaged is the inverse of a drop: it is linear in the curvature, which may come near zero.
    """
    if own is None or own.best_drop <= 0:
        return None
    curvatures = [own.slope / (2 * each.best_drop) for each in groups if each is not None and each.best_drop > 0]
    if len(curvatures) < len(groups):
        return None
    mean = fmean(curvatures)
    own_curvature = min(own.slope / (2 * own.best_drop), mean)
    error = stdev(curvatures) / sqrt(len(curvatures)) / mean
    return ExpectedProgress(own.slope, own_curvature, directions * (mean - own_curvature), error)
