"""A quadratic loss with a known gradient and Hessian, and exact scalars of it."""

from __future__ import annotations

import numpy as np

from fwdllm_common.directions import Directions
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.layout import Block
from fwdllm_server.profiler.scalars import Scalars

SIZE = 400
BLOCK = Block("peft", 0, SIZE)
DIRECTIONS = Directions(11)
START = np.zeros(SIZE, dtype=np.float32)
GRADIENT = np.random.default_rng(1).normal(0, 0.1, SIZE).astype(np.float32)
# A few curvatures are large, most are small, as in a network.
HESSIAN = 3.0 / np.sqrt(np.arange(1, SIZE + 1))


def loss(weights):
    return 10 + float(GRADIENT.astype(np.float64) @ weights + 0.5 * (HESSIAN * weights.astype(np.float64)) @ weights)


def exact_scalars(count):
    seeds = np.arange(count, dtype=np.uint64)
    values = [float(DIRECTIONS.vector(int(seed), 0, SIZE) @ GRADIENT) for seed in seeds]
    return Scalars(seeds, np.array(list(map(to_fixed_point, values))), seconds_each=0.1, passes_each=1)
