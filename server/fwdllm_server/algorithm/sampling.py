"""Discriminative perturbation sampling: of many candidate seeds, those nearest to a reference (FwdLLM §3.3).

The coordinator ranks candidates by itself, so no device pays for it. Directions so chosen have a mean along the
reference: the estimate is biased towards it, as momentum is, (15).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.run import Run, reference


def sampled_seeds(
    run: Run, block: Block, first: int, count: int, state: ModelState, last: LedgerEntry | None
) -> Sequence[int]:
    """Return ``count`` seeds of a block, ascending: those from ``first`` on, or, if the step samples, the nearest ones.

    With p = ``keep``, ``count``/p candidates are ranked by z = v·r, (14), for the reference r of ``state`` and ``last``
    (:func:`fwdllm_server.algorithm.run.reference`); without one, no candidate is better than another.
    """
    sampling = run.section(block.name).sampling
    if sampling is None or (state.version + 1) % sampling.every:
        return range(first, first + count)
    target = reference(run, block, state, last, sampling.reference)
    if target is None:
        return range(first, first + count)
    candidates = range(first, first + ceil(round(count / sampling.keep, 6)))
    parts = [block.slice] if sampling.scope == "vector" else run.layout.tensors_of(block.name)
    return nearest(run.header.directions, candidates, count, target, parts, sampling.cosine == "absolute")


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
