"""Variance-controlled pacing: a round goes on until its estimate is good enough (FwdLLM §3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.estimator import Estimate, forward_gradient
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Block
from fwdllm_common.orthogonal import AnyDirections, OrthogonalDirections


@dataclass(frozen=True)
class Verdict:
    """Whether a block has directions enough, the statistic and threshold that say so, and the reason in words."""

    enough: bool
    variance: float
    threshold: float
    reason: str


def relative_variance(
    directions: AnyDirections,
    seeds: NDArray[np.uint64],
    coefficients: NDArray[np.int64],
    block: Block,
    estimate: Estimate = forward_gradient,
) -> float:
    """Estimated variance of ĝ over the estimated ‖∇L‖²: scale-free, at best (d − 2 + κ)/K for K directions.

    κ is the kurtosis of a coordinate, 1 for Rademacher. K times the variance of ĝ is d·E c² + (κ − 2)‖∇L‖², data noise
    included, and ‖ĝ‖² exceeds ‖∇L‖² by the variance: two equations, from scalars and seeds alone. Infinite while the
    signal is not above the noise. ``docs/algorithm.md`` derives it, also for orthogonal directions.
    """
    count = len(seeds)
    if count < 2:
        return inf
    gradient = estimate(directions, seeds, coefficients, block).astype(np.float64)
    squared_norm = float(gradient @ gradient)
    mean_square = float(np.mean((coefficients / SCALE) ** 2))
    signal = (count * squared_norm - block.size * mean_square) / _pairs(directions, seeds, block)
    return max(0.0, squared_norm - signal) / signal if signal > 0 else inf


def _pairs(directions: AnyDirections, seeds: NDArray[np.uint64], block: Block) -> float:
    """By what the signal is multiplied in the difference of the two equations."""
    if not isinstance(directions, OrthogonalDirections):
        return len(seeds) + directions.kurtosis - 2
    _, counts = np.unique(seeds // np.uint64(directions.order), return_counts=True)
    # Of a frame of which a part is missing, directions overlap as if they were independent, but less.
    missing = float((counts * (directions.order - counts)).sum()) / (len(seeds) * (directions.order - 1))
    return len(seeds) - block.size + (block.size - 1) * missing


def split_half_variance(
    directions: AnyDirections,
    seeds: NDArray[np.uint64],
    coefficients: NDArray[np.int64],
    block: Block,
    estimate: Estimate = forward_gradient,
) -> float:
    """Compute the paper's statistic: the mean over coordinates of (m₁ − m₂)²/2 for the means of the halves.

    Its expectation is twice the variance of a coordinate of ĝ, about 2‖∇L‖²/K without data noise, so its threshold has
    the unit of the gradient squared.
    """
    half = len(seeds) // 2
    if half == 0:
        return inf
    first = estimate(directions, seeds[:half], coefficients[:half], block)
    second = estimate(directions, seeds[half:], coefficients[half:], block)
    return float(np.mean((first.astype(np.float64) - second) ** 2) / 2)
