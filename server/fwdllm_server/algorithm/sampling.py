"""Discriminative perturbation sampling: of many candidate seeds, those nearest to a reference (FwdLLM §3.3).

The coordinator ranks candidates by itself, so no device pays for it. Directions so chosen have a mean along the
reference: the estimate is biased towards it, as momentum is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions
from fwdllm_common.layout import Float32Vector


def nearest(
    directions: Directions,
    candidates: Sequence[int],
    keep: int,
    reference: Float32Vector,
    parts: Sequence[slice],
    absolute: bool,
) -> list[int]:
    """Return the ``keep`` candidate seeds with the largest cosine to ``reference``, ascending.

    ``parts`` are slices of θ that together make up the block of ``reference``, float32 ``[block size]``: the whole
    block, or its tensors, whose cosines are then averaged so that large tensors do not drown small ones. With
    ``absolute`` a direction that points away counts as much as one that points along.
    """
    start = parts[0].start
    scores = np.zeros(len(candidates))
    for part in parts:
        target = reference[part.start - start : part.stop - start]
        length = float(np.linalg.norm(target))
        if length > 0:
            scores += _cosines(directions, candidates, part, target / length)
    order = np.argsort(-np.abs(scores) if absolute else -scores, kind="stable")
    return sorted(candidates[index] for index in order[:keep])


def _cosines(
    directions: Directions, candidates: Sequence[int], part: slice, target: Float32Vector
) -> NDArray[np.float64]:
    cosines = np.empty(len(candidates))
    for index, seed in enumerate(candidates):
        vector = directions.vector(seed, part.start, part.stop)
        length = float(np.linalg.norm(vector))
        # A Gaussian direction of a small tensor can be zero: it points nowhere.
        cosines[index] = float(vector @ target) / length if length > 0 else 0.0
    return cosines
