"""Estimate the decrease of the loss with a number of directions; derived in ``docs/profiler.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from fwdllm_server.profiler.curvature import Descent


@dataclass(frozen=True)
class ExpectedProgress:
    """The expected decrease of the loss by a step of the best length along ĝ.

    ``gradient_sq`` is ‖g‖². The curvature along ĝ of K directions, over ‖g‖², is ``own_curvature`` (along g) plus
    ``noise_curvature`` / K (of the noise orthogonal to g). ``error`` is the relative standard error of a decrease.
    """

    gradient_sq: float
    own_curvature: float
    noise_curvature: float
    error: float

    @property
    def enough(self) -> float:
        """The number of directions whose decrease is half of the true gradient's."""
        return self.noise_curvature / self.own_curvature

    def drop(self, directions: float) -> float:
        """Return the expected decrease of the loss (nats, above 0) with a number of ``directions``."""
        return self.gradient_sq / (2 * (self.own_curvature + self.noise_curvature / directions))


def expected_progress(
    own: Descent | None, groups: Sequence[Descent | None], directions: int
) -> ExpectedProgress | None:
    """Estimate the progress from the descent along g, and those along several ĝ of ``directions`` each.

    The mean is over inverse decreases, which are linear in the curvature. The curvature may be near zero.

    :returns: None if the loss does not fall along g or along one of the ĝ.
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
