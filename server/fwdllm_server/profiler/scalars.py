"""Measure the scalars that a device would send for a candidate, and their cost, with the device's engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.fixed_point import UnusableScalarError, to_fixed_point
from fwdllm_common.layout import Float32Vector

PARTS = 4
"""Number of assignments into which the directions are divided. Each is timed."""


@dataclass(frozen=True, eq=False)
class Scalars:
    """Seeds uint64 ``[K]`` and fixed-point coefficients int64 ``[K]``, and the cost of each in seconds and passes."""

    seeds: NDArray[np.uint64]
    coefficients: NDArray[np.int64]
    seconds_each: float
    passes_each: float


def measure_scalars(
    engine: Engine,
    theta: Float32Vector,
    directions: Directions,
    task: DirectionTask,
    rows: NDArray[np.int64],
    tick: Callable[[int], None],
) -> Scalars:
    """Measure the scalars of ``task`` at ``theta``, float32 ``[d]``.

    The seconds for each are the median over :data:`PARTS` assignments. A first direction, which is not timed, loads the
    model and fills the cache.

    :param rows: int64 indices of the batch's rows.
    :param tick: called with the number of directions that were measured since the last call.
    :raises BadInputError: a scalar is not finite or too large.
    """
    list(engine.derivatives(theta, directions, replace(task, seeds=task.seeds[:1]), rows))
    passes = engine.example_passes
    seconds, values = [], []
    for seeds in np.array_split(task.seeds, PARTS):
        started = time.perf_counter()
        for _, chunk in engine.derivatives(theta, directions, replace(task, seeds=seeds), rows):
            values.append(chunk.astype(np.float32))  # as sent
            tick(len(chunk))
        seconds.append((time.perf_counter() - started) / len(seeds))
    passes = engine.example_passes - passes
    count = len(task.seeds)
    return Scalars(task.seeds, _fixed_point(np.concatenate(values)), median(seconds), passes / count)


def _fixed_point(values: NDArray[np.float32]) -> NDArray[np.int64]:
    try:
        return np.array([to_fixed_point(float(value)) for value in values], dtype=np.int64)
    except UnusableScalarError as error:
        raise BadInputError(
            f"a directional derivative is {error}; change [perturbation] epsilon, or leave this candidate out"
        ) from error
