"""The method: directional derivatives of the loss by inference alone (DESIGN §4).

For directions v_1 … v_K and one batch of local rows, the device returns (L(θ + εv_k) − L(θ)) / ε. The base loss L(θ) is
computed once and shared: K directions cost K + 1 passes. The paper's central difference, (L(θ + εv_k) − L(θ − εv_k))
/ 2ε, costs 2K. In a linearised chain L is what :mod:`fwdllm_client.engine.linearised` says. Everything below the
perturbed block is the same for all of them and comes from the cache. Several perturbed copies go through the frozen
weights together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.batches import distinct_rows, nested_size, same_rows, sample_rows
from fwdllm_client.engine.linearised import LinearisedLoss
from fwdllm_client.engine.runs import RunInputs, TiledBatch, copies_per_run, run_groups
from fwdllm_client.engine.stages import Float32
from fwdllm_common.errors import BadInputError, NotAllowedError
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.orthogonal import AnyDirections
from fwdllm_common.seeds import array_of, from_messages

Derivatives = NDArray[np.float64]


@dataclass(frozen=True)
class DirectionTask:
    """Directions in one block, all measured on the same batch.

    ``seeds`` uint64 ``[K]``; ``epsilon`` is the length of the step along each direction. The first ``done`` directions
    have been measured before an interruption: they are left out, and the batch is still the one they were measured on.
    ``central`` asks for the central difference instead of the one-sided one, ``same_rows`` for a batch that begins with
    the same rows in every round, and ``packed`` for scalars in half precision.

    :raises BadInputError: no seeds, ε no float32 above 0, or an empty batch.
    """

    block: str
    seeds: NDArray[np.uint64]
    epsilon: float
    batch_size: int
    central: bool = False
    done: int = 0
    same_rows: bool = False
    packed: bool = False

    @classmethod
    def from_message(cls, message: device_pb2.DirectionTask) -> DirectionTask:
        """Return a task as it comes over the wire.

        :raises BadInputError: too many directions, or as above.
        """
        if sum(seeds.count for seeds in message.seeds) > MAX_DIRECTIONS:
            raise BadInputError(f"a task has more than {MAX_DIRECTIONS} directions; update fwdllm")
        return cls(
            message.block,
            array_of(from_messages(message.seeds)),
            message.epsilon,
            message.batch_size,
            message.central,
            same_rows=message.same_rows,
            packed=message.packed,
        )

    def batch(self, run_key: int, rows: RowIndices) -> RowIndices:
        """Return the rows of the batch, drawn from the device's ``rows``.

        :raises BadInputError: there are none.
        """
        if self.same_rows:
            return same_rows(run_key, rows, self.batch_size)
        return sample_rows(run_key, int(self.seeds[0]), rows, self.batch_size)

    def __post_init__(self) -> None:
        if len(self.seeds) == 0 or self.batch_size < 1:
            raise BadInputError("a task needs at least one seed and one row")
        limits = np.finfo(np.float32)
        if not float(limits.tiny) <= self.epsilon <= float(limits.max):
            raise BadInputError(f"epsilon is {self.epsilon}; it must be a float32 above 0")


def directional_derivatives(
    shared: Rows, theta: Float32, directions: AnyDirections, task: DirectionTask, rows: RowIndices
) -> Iterator[tuple[int, Derivatives]]:
    """Return the derivatives of ``task`` at ``theta`` as they come: index of the first, float64 values.

    The batch is drawn from ``rows``; see :meth:`DirectionTask.batch`.

    :raises BadInputError: there are no rows, or the model has no such block.
    :raises NotAllowedError: the batch is to be smaller than the device's owner allows, or cannot be large enough.
    """
    chain = shared.chain
    block, stage = chain.manifest.layout.block(task.block), chain.manifest.stage_of(task.block)
    batch = _batch(shared, directions.run_key, task, rows)
    epsilon = np.float32(task.epsilon)
    later = [chain.theta_of(index, theta) for index in range(stage + 1, chain.last + 1)]
    base_pass, groups = BasePass(shared, theta), run_groups(shared, stage, batch)
    base_pass.fill(stage, batch)
    weights = [shared.dataset.weights(group.rows) for group in groups]
    total_weight = sum(float(each.sum()) for each in weights)
    inputs = [RunInputs(shared, base_pass, stage, group) for group in base_pass.ready(stage, groups)]
    tiled = TiledBatch(inputs)
    chain.unload_all_but(range(chain.boundary(stage) + 1, chain.last + 1))

    def mean_loss(copies: Float32) -> Derivatives:
        """L of each copy of the block: the weighted mean of per-example float32 losses, summed in float64."""
        shared.count(batch, stage, chain.last + 1, times=len(copies))
        total = np.zeros(len(copies))
        for (text, activation, labels, features), weight in zip(tiled.inputs(len(copies)), weights, strict=True):
            (losses,) = chain.loss(stage, text, activation, labels, [copies, *later], features=features)
            total += (losses.reshape(len(copies), -1) * weight).sum(axis=1)
        return total / total_weight

    loss: Callable[[Float32], Derivatives] = mean_loss
    together = copies_per_run(shared, stage, groups)
    if chain.manifest.linearised:
        loss = linearised = LinearisedLoss(shared, theta, stage, groups, inputs)
        together = linearised.copies_per_run
    base_loss = None if task.central else loss(chain.theta_of(stage, theta))
    for first in range(task.done, len(task.seeds), together):
        seeds = task.seeds[first : first + together]
        ahead = loss(directions.perturb(theta[block.slice], seeds, block.start, float(epsilon)))
        if base_loss is not None:
            yield first, (ahead - base_loss) / np.float64(epsilon)
        else:
            behind = loss(directions.perturb(theta[block.slice], seeds, block.start, -float(epsilon)))
            yield first, (ahead - behind) / (2 * np.float64(epsilon))


def _batch(shared: Rows, run_key: int, task: DirectionTask, rows: RowIndices) -> RowIndices:
    """Return the rows of ``task``, and as many more as it takes until the least number of them differ."""
    least, size = shared.min_batch_rows, task.batch_size
    if size < least:
        raise NotAllowedError(f"it asks for scalars over {size} rows, this device gives them over {least} or more")
    if task.same_rows:
        size = nested_size(size, len(rows), least)
    while True:
        batch = replace(task, batch_size=size).batch(run_key, rows)
        missing = least - distinct_rows(shared.dataset, batch)
        if missing <= 0:
            return batch
        if len(batch) == len(rows):
            raise NotAllowedError(f"this device has not the {least} distinct rows that its owner wants behind a scalar")
        size += missing
