"""The unperturbed pass up to a stage, from the cache where it holds a row.

Each row is computed on its own and rounded to the precision of the cache, so that its numbers do not depend on which
rows happened to be computed with it, nor on whether they were cached.

Stages that only this pass runs are in memory one at a time, and not at all once the cache holds what they gave: so
training, which adds perturbed copies of later stages, stays below what a whole forward pass takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.activations import Activation, ActivationCache, cache_dtype, rounded
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_client.engine.cost import PassCost
from fwdllm_client.engine.stages import Float32, StageChain


@dataclass(frozen=True)
class Rows:
    """What all passes over the local rows share: the model, the rows, the caches (of stage i's output), the count.

    ``tokens_per_run`` is the most tokens (copies × rows × length) that go through the model together.
    """

    chain: StageChain
    dataset: Dataset
    padded: NDArray[np.int64]
    caches: Sequence[ActivationCache]
    cost: PassCost
    tokens_per_run: int


class BasePass:
    """Activations at θ, float32 ``[d]``."""

    def __init__(self, shared: Rows, theta: Float32) -> None:
        self._shared = shared
        self._theta = theta
        self._tags = _tags(shared.chain, theta)

    def fill(self, stage: int, rows: RowIndices) -> None:
        """Put what ``stage`` reads of ``rows`` into the cache as far as it has room, and unload the stages below."""
        chain, caches = self._shared.chain, self._shared.caches
        wanted: list[RowIndices] = []
        for index in reversed(range(stage)):
            rows = np.array([row for row in rows if caches[index].lacks(int(row), self._tags[index])], dtype=np.int64)
            wanted.append(rows)
        for index, missing in enumerate(reversed(wanted)):
            kept = [int(row) for row in missing if caches[index].keeps(int(row))]
            if kept:
                chain.unload_all_but(range(index, index + 1))
            for row in kept:
                self._row(index, row)
        chain.unload_all_but(range(stage, chain.last + 1))

    def before(self, stage: int, group: Group) -> Activation:
        """What ``stage`` reads, in the cache's dtype: ``[N, T, width]``, zero after each text, or ``[N, width]``."""
        source = self._shared.chain.manifest.stages[stage - 1]
        rows = [self._row(stage - 1, int(row)) for row in group.rows]
        if not source.per_token:
            return np.concatenate(rows)
        padded = np.zeros((len(rows), group.tokens, source.width), dtype=cache_dtype(per_token=True))
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        return padded

    def _row(self, stage: int, row: int) -> Activation:
        cache = self._shared.caches[stage]
        values = cache.read(row, self._tags[stage])
        if values is None:
            values = self._compute(stage, row)
            cache.write(row, self._tags[stage], values)
        return values

    def _compute(self, stage: int, row: int) -> Activation:
        shared, chain = self._shared, self._shared.chain
        group = Group(np.array([row], dtype=np.int64), int(shared.padded[row]))
        before = self.before(stage, group).astype(np.float32) if stage > 0 else None
        copies = chain.theta_of(stage, self._theta) if stage > 0 else None
        text = text_of(shared.dataset, group, chain.manifest.pad_token_id)
        output = chain.activation(stage, text, before, copies)
        shared.cost.add(shared.padded[group.rows], stage, stage + 1)
        per_token = chain.manifest.stages[stage].per_token
        kept = output[0, : int(shared.dataset.lengths[row])] if per_token else output
        return rounded(kept, cache_dtype(per_token))


def _tags(chain: StageChain, theta: Float32) -> list[int]:
    """For the output of each stage, 64 bits of a hash of the θ that it depends on."""
    digest = hashlib.sha256()
    tags = []
    for stage in range(chain.last):
        if stage > 0:
            digest.update(np.ascontiguousarray(chain.theta_of(stage, theta), dtype="<f4").data)
        tags.append(int.from_bytes(digest.digest()[:8], "little"))
    return tags
