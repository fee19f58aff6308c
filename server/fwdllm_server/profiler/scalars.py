"""What a device would send for a candidate, and what that costs it: measured with the device's own engine."""

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
"""Assignments into which the directions are divided; each is timed."""


@dataclass(frozen=True, eq=False)
class Scalars:
    """Seeds uint64 and fixed-point coefficients int64, both ``[K]``; the cost of one of them."""

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
    """The scalars of ``task`` at ``theta``, float32 ``[d]``; ``tick`` hears how many more directions are done.

    The seconds of one are the median over :data:`PARTS` assignments, after a first direction that loads the model and
    fills the cache.

    :raises BadInputError: a scalar is of no use.
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
