"""Personalisation: forward gradients on a device's own rows, from the global θ on, which leave the device never.

A round measures one block completely, or along a few thousand directions where it is large, on all training rows, and
steps with Adam: the method of a job (DESIGN §2) with one device and no coordinator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.derivatives import DirectionTask
from fwdllm_client.engine.engine import Engine
from fwdllm_common.directions import Directions, step_length
from fwdllm_common.errors import BadInputError
from fwdllm_common.estimator import forward_gradient
from fwdllm_common.fixed_point import UnusableScalarError, to_fixed_point
from fwdllm_common.layout import Block, Float32Vector, Layout
from fwdllm_common.optimizers import OptimizerSettings, OptimizerState, step
from fwdllm_common.orthogonal import AnyDirections, OrthogonalDirections, order_for

MOST_COMPLETE = 1 << 15
"""Most directions of a round that are one for each coordinate; a larger block has :data:`SAMPLED` directions."""
SAMPLED = 4096
_RUN_KEY = 0x706572736F6E
_MIN_EPSILON, _RELATIVE = 1e-3, 0.01
"""As jobs have them by default."""
_ADAM = OptimizerSettings("adam")


@dataclass(frozen=True)
class Personalisation:
    """``rounds`` steps of ``learning_rate`` in one ``block``; without a name, in the last: the head, if any."""

    rounds: int = 10
    learning_rate: float = 0.01
    block: str | None = None


def personalise(
    engine: Engine, layout: Layout, theta: Float32Vector, rows: RowIndices, settings: Personalisation
) -> Iterator[Float32Vector]:
    """Yield θ after each round, float32 ``[d]``; ``theta`` stays as it is.

    :raises BadInputError: there is no such block, there are no rows, or the rate is so high that the loss diverges.
    """
    block = layout.block(settings.block or list(layout.blocks)[-1])
    directions, count = _directions_of(block)
    state, theta = OptimizerState.zeros(_ADAM, block.size), theta.copy()
    for number in range(settings.rounds):
        seeds = np.arange(number * count, (number + 1) * count, dtype=np.uint64)
        epsilon = step_length(theta[block.slice], _MIN_EPSILON, _RELATIVE)
        task = DirectionTask(block.name, seeds, epsilon, len(rows))
        chunks = engine.derivatives(theta, directions, task, rows)
        try:
            found = [to_fixed_point(float(value)) for _, values in chunks for value in values]
        except UnusableScalarError as error:
            raise BadInputError(
                f"round {number + 1}: a directional derivative is {error}; try a --learning-rate below "
                f"{settings.learning_rate:g}"
            ) from error
        gradient = forward_gradient(directions, seeds, np.array(found, dtype=np.int64), block)
        theta = theta.copy()
        step(_ADAM, state, theta[block.slice], gradient, np.float32(settings.learning_rate))
        yield theta


def _directions_of(block: Block) -> tuple[AnyDirections, int]:
    """Return the directions of a block, and how many a round measures."""
    if block.size < MOST_COMPLETE:
        return OrthogonalDirections(_RUN_KEY, block.start, block.size), order_for(block.size)
    return Directions(_RUN_KEY), SAMPLED
