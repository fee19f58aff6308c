"""Count the example-passes of work as the engine counts them, without computing anything.

The engine's own count depends on the contents of its cache, which outlive a simulation that is killed. Here the count
is a function of the simulation alone. Therefore simulated time is one, too.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine import DirectionTask, PassCost, padded_lengths
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest


class PassCounter:
    """Counts example-passes, with a model of the devices' caches: which rows each holds.

    A row belongs to one device. A device's cache has room for all its rows.
    """

    def __init__(self, manifest: Manifest, dataset: Dataset, run_key: int) -> None:
        self._manifest = manifest
        self._run_key = run_key
        self._padded = padded_lengths(dataset.lengths, manifest.max_tokens)
        self._predicted = dataset.predicted
        self._last = len(manifest.stages) - 1
        # For the output of each stage but the last: the tag of the θ with which each row was computed.
        self._cached: NDArray[np.uint64] = np.zeros((self._last, len(dataset)), dtype=np.uint64)
        # A version's θ is the same array for all devices, so that its tags are computed once.
        self._tagged: Float32Vector | None = None
        self._tags: dict[int, np.uint64] = {}

    def task(self, task: DirectionTask, theta: Float32Vector, rows: RowIndices) -> tuple[float, float]:
        """Return the cost of a task in example-passes: before its first direction, and for each direction.

        :param theta: float32 ``[d]``.
        :param rows: indices of the device's rows, from which the batch is drawn.
        """
        stage = self._manifest.stage_of(task.block)
        batch = task.batch(self._run_key, rows)
        before, each = PassCost(self._manifest), PassCost(self._manifest)
        self._fill(stage - 1, batch, theta, before)
        repeated = self._manifest.direction_stages(task.block)
        self._add(each, batch, stage, repeated.stop)
        self._add(before, batch, repeated.stop, self._last + 1)  # slopes
        if task.central:
            return before.example_passes, 2 * each.example_passes
        return before.example_passes + each.example_passes, each.example_passes

    def evaluation(self, theta: Float32Vector, rows: RowIndices) -> float:
        """Return the cost of predicting ``rows`` at ``theta`` (float32 ``[d]``), in example-passes."""
        cost = PassCost(self._manifest)
        self._fill(self._last - 1, rows, theta, cost)
        self._add(cost, rows, self._last, self._last + 1)
        return cost.example_passes

    def features(self, theta: Float32Vector, rows: RowIndices) -> float:
        """Return the cost of the features of ``rows`` that the head reads, in example-passes."""
        cost = PassCost(self._manifest)
        self._fill(self._last - 1, rows, theta, cost)
        return cost.example_passes

    def _fill(self, stage: int, rows: RowIndices, theta: Float32Vector, cost: PassCost) -> None:
        """Add the cost of a stage's output for ``rows`` to ``cost``, except for cached rows."""
        tag = self._tag(stage, theta)
        is_kept = stage < self._manifest.frozen or not self._manifest.features
        missing = rows[self._cached[stage, rows] != tag] if is_kept else rows
        if len(missing):
            if stage > 0:
                self._fill(stage - 1, missing, theta, cost)
            self._add(cost, missing, stage, stage + 1)
            self._cached[stage, missing] = tag

    def _add(self, cost: PassCost, rows: RowIndices, first: int, stop: int) -> None:
        cost.add(self._padded[rows], first, stop, targets=self._predicted[rows])

    def _tag(self, stage: int, theta: Float32Vector) -> np.uint64:
        """Return a tag, a number above 0, of those parts of θ that the output of a stage depends on."""
        if self._tagged is not theta:
            self._tagged, self._tags = theta, {}
        if stage not in self._tags:
            blocks = list(self._manifest.layout.blocks.values())[: max(0, stage + 1 - self._manifest.frozen)]
            read = hashlib.sha256(b"".join(theta[block.slice].tobytes() for block in blocks)).digest()
            self._tags[stage] = np.uint64(int.from_bytes(read[:8], "little") | 1)
        return self._tags[stage]

    def to_bytes(self) -> bytes:
        """Serialise the contents of the caches."""
        return zlib.compress(self._cached.tobytes(), level=1)

    def restore(self, data: bytes) -> None:
        """Restore the contents of the caches from :meth:`to_bytes`."""
        self._cached = np.frombuffer(zlib.decompress(data), dtype=np.uint64).reshape(self._cached.shape).copy()
