"""Compute the cosine of forward and true gradient for growing numbers of directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import forward_gradient
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_server.profiler.scalars import PARTS, Scalars

_STEP = 4
_MOST_GROUPS = 16


@dataclass(frozen=True)
class Similarity:
    """The mean cosine over disjoint ``groups`` of ``directions`` each, its standard deviation, and the expected one."""

    directions: int
    groups: int
    cosine: float
    std: float | None
    law: float


def law(directions: float, coordinates: int) -> float:
    """Return √(K/(K + d)): the expected cosine of K directions in d coordinates if scalars have no other noise."""
    return sqrt(directions / (directions + coordinates))


def forward_gradients(
    directions: Directions, scalars: Scalars, block: Block, count: int, most: int = _MOST_GROUPS
) -> Iterator[Float32Vector]:
    """Yield ĝ, float32 ``[block size]``, of at most ``most`` disjoint groups of ``count`` directions each."""
    for group in range(min(most, len(scalars.seeds) // count)):
        part = slice(group * count, (group + 1) * count)
        yield forward_gradient(directions, scalars.seeds[part], scalars.coefficients[part], block)


def similarities(
    directions: Directions, scalars: Scalars, block: Block, gradient: Float32Vector
) -> Sequence[Similarity]:
    """Compute the similarities for K = 1, 4, 16, …, all directions, and a :data:`PARTS`-th of all.

    :param gradient: the true gradient, float32 ``[block size]``.
    """
    found = []
    for count in _counts(len(scalars.seeds)):
        cosines = [_cosine(estimate, gradient) for estimate in forward_gradients(directions, scalars, block, count)]
        std = float(np.std(cosines, ddof=1)) if len(cosines) > 1 else None
        mean = float(np.mean(cosines))
        found.append(Similarity(count, len(cosines), mean, std, law(count, block.size)))
    return found


def _counts(most: int) -> list[int]:
    powers = {_STEP**exponent for exponent in range(most.bit_length())}
    return sorted({count for count in powers if count <= most} | {most // PARTS, most})


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0
