"""From scalars and seeds to a forward gradient: ĝ = (1/K) Σ_k δ_k v_k (FwdLLM §3; unbiased as ε → 0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.fixed_point import MAX_WEIGHT, SCALE
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_common.orthogonal import AnyDirections

Estimate: TypeAlias = Callable[[AnyDirections, NDArray[np.uint64], NDArray[np.int64], Block], Float32Vector]
"""What :func:`forward_gradient` does, by itself or out of something kept."""

MOST_EXAMPLES = 2
"""A device counts for so many times the median of examples at most: of five devices, one that lies has a third."""


@dataclass(frozen=True)
class Scalar:
    """One directional derivative: its seed, the fixed-point value, who measured it, on how many local examples."""

    seed: int
    value: int
    device: str
    examples: int


def coefficients(scalars: Sequence[Scalar]) -> NDArray[np.int64]:
    """Return the fixed-point coefficient of each scalar, int64 ``[K]``, so that ĝ = (1/K) Σ c_k v_k.

    Weights are those of :func:`weights`.
    """
    measured = Counter(scalar.device for scalar in scalars)
    of_device = weights(measured, {scalar.device: scalar.examples for scalar in scalars})
    return np.array([round(scalar.value * of_device[scalar.device]) for scalar in scalars], dtype=np.int64)


def weights(measured: Mapping[str, int], examples: Mapping[str, int]) -> Mapping[str, float]:
    """Return what a scalar of each device counts, by how many it ``measured`` and how many local ``examples`` it has.

    A device counts by its number of examples, as in FedSGD (McMahan et al. 2017), however many directions it measured:
    the weight n_i K / (K_i Σn) is 1 where all are alike, and is bounded by 4. How many examples it has is a device's
    own word: it counts for no more than twice the median (of two, twice the larger).
    """
    said = {device: max(1, examples[device]) for device in measured}
    most = MOST_EXAMPLES * median_high(said.values())
    counted = {device: min(count, most) for device, count in said.items()}
    everything, scalars = sum(counted.values()), sum(measured.values())
    return {
        device: min(float(MAX_WEIGHT), counted[device] * scalars / (count * everything))
        for device, count in measured.items()
    }


def forward_gradient(
    directions: AnyDirections, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], block: Block
) -> Float32Vector:
    """ĝ over one block, float32 ``[block size]``; the same bits whatever the order or batching of the directions."""
    total = directions.weighted_sum(seeds, coefficients, block.start, block.stop)
    # Division by K·2²⁴ in float64 and one rounding to float32: each an exact IEEE operation.
    return (total.astype(np.float64) / np.float64(len(seeds) * SCALE * directions.unit)).astype(np.float32)
