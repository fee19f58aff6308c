"""The unperturbed pass up to a stage, from the cache where it holds a row.

Each row is computed on its own and rounded to the precision of the cache, so that its numbers do not depend on which
rows happened to be computed with it, nor on whether they were cached.

Stages that only this pass runs are in memory one at a time, and not at all once the cache holds what they gave: so
training, which adds perturbed copies of later stages, stays below what a whole forward pass takes. Between frozen
stages activations stay in float32, so that the numbers are those of a prefix in one piece, and in memory, a portion of
the rows at a time. Rows for which the cache has no room go through the stages a portion at a time too.

In a chain with features only what the frozen stages give is kept. The stages of blocks below the perturbed one are run
for all rows of a group together: they are small and loaded anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.activations import (
    Activation,
    ActivationCache,
    cache_dtype,
    packed,
    rounded,
    unpacked_features,
)
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_client.engine.cost import PassCost
from fwdllm_client.engine.stages import Float32, StageChain

T = TypeVar("T")

Output: TypeAlias = tuple[Float32, Float32 | None]
"""What a stage gives for a row: the activation, and features where it has them."""
FLOATS_CARRIED = 1 << 22
"""Most floats (rows × length × width) that go from one frozen stage to the next together."""


def always() -> None:
    """Nothing keeps the work from going on."""


@dataclass
class Rows:
    """What all passes over the local rows share: the model, the rows, the caches by stage of its output, the count.

    ``tokens_per_run`` is the most tokens (copies × rows × length) that go through the model together.
    ``check_cancelled`` is called before every unperturbed run; what it raises ends the work.
    No derivative is of a batch with fewer than ``min_batch_rows`` distinct rows.
    """

    chain: StageChain
    dataset: Dataset
    padded: NDArray[np.int64]
    caches: Mapping[int, ActivationCache]
    cost: PassCost
    tokens_per_run: int
    check_cancelled: Callable[[], None] = always
    min_batch_rows: int = 1


class BasePass:
    """Activations at θ, float32 ``[d]``."""

    def __init__(self, shared: Rows, theta: Float32) -> None:
        self._shared = shared
        self._theta = theta
        self._tags = _tags(shared.chain, theta)
        self._held: Mapping[int, Activation] = {}

    def fill(self, stage: int, rows: RowIndices) -> None:
        """Put what ``stage`` reads of ``rows`` into the cache as far as it has room, and unload the stages below."""
        chain, caches = self._shared.chain, self._shared.caches
        first, lowest = chain.manifest.frozen - 1, chain.boundary(stage) + 1
        wanted: list[RowIndices] = []
        for index in reversed(range(first, lowest)):
            rows = np.array([row for row in rows if caches[index].lacks(int(row), self._tags[index])], dtype=np.int64)
            wanted.append(rows)
        for index, missing in enumerate(reversed(wanted), start=first):
            kept = [int(row) for row in missing if caches[index].keeps(int(row))]
            # A provider with a session for each length changes it as seldom as can be.
            kept.sort(key=lambda row: int(self._shared.padded[row]))
            if kept:
                chain.unload_all_but(range(index, index + 1))
            for portion in self._portions(kept, self._row_floats):
                self._outputs(index, portion)
        chain.unload_all_but(range(lowest, chain.last + 1))

    def ready(self, stage: int, groups: Sequence[Group]) -> Iterator[Group]:
        """Yield the ``groups``, each once :meth:`before` can give what ``stage`` reads of it.

        What the cache has no room for is computed for a portion of the groups together, so that a prefix that is
        streamed is streamed once for each portion.
        """
        boundary = self._shared.chain.boundary(stage)
        for portion in self._portions(groups, lambda group: sum(self._row_floats(int(row)) for row in group.rows)):
            rows = [int(row) for group in portion for row in group.rows]
            if uncached := [row for row in rows if not self._shared.caches[boundary].keeps(row)]:
                self._held = dict(zip(uncached, self._outputs(boundary, uncached), strict=True))
            for group in portion:
                self._shared.check_cancelled()
                yield group
            self._held = {}

    def before(self, stage: int, group: Group) -> Activation:
        """Return what ``stage`` reads, in the cache's dtype: ``[N, T, width]``, zero after text, or ``[N, width]``.

        Of a chain with features float32, and with an axis for the one copy behind the rows' where it is no tokens'.
        """
        boundary = self._shared.chain.boundary(stage)
        rows = self._kept(boundary, group)
        if self._shared.chain.manifest.features:
            lengths = self._shared.dataset.lengths[group.rows]
            rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        activation = self._padded(boundary, rows, group.tokens)
        if boundary == stage - 1:
            return activation
        text = text_of(self._shared.dataset, group, self._shared.chain.manifest.pad_token_id)
        self._shared.cost.add(self._shared.padded[group.rows], boundary + 1, stage)
        output = activation.astype(np.float32)
        for index in range(boundary + 1, stage):
            copies = self._shared.chain.theta_of(index, self._theta)
            output = self._shared.chain.activation(index, text, output, copies)
        return output

    def features(self, group: Group) -> Float32:
        """Return the features that the frozen stages give beside their activation, float32 ``[N, features]``."""
        manifest = self._shared.chain.manifest
        kept = self._kept(manifest.frozen - 1, group)
        return np.stack([unpacked_features(row, manifest.features) for row in kept])

    def _kept(self, boundary: int, group: Group) -> Sequence[Activation]:
        """Return what the cache holds of a group, or would if it had room."""
        rows = [int(row) for row in group.rows]
        missing = [row for row in rows if row not in self._held]
        found = {**self._held, **dict(zip(missing, self._outputs(boundary, missing), strict=True))}
        return [found[row] for row in rows]

    def _padded(self, stage: int, rows: Sequence[Activation], tokens: int) -> Activation:
        """Join outputs of ``stage``, zero after each text."""
        source = self._shared.chain.manifest.stages[stage]
        if not source.per_token:
            return np.concatenate(rows)
        padded = np.zeros((len(rows), tokens, source.width), dtype=cache_dtype(per_token=True))
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        return padded

    def _outputs(self, stage: int, rows: Sequence[int]) -> Sequence[Activation]:
        """Return what ``stage`` gives for each of ``rows``, in the cache's dtype and without padding."""
        cache, tag = self._shared.caches[stage], self._tags[stage]
        found = {row: cache.read(row, tag) for row in rows}
        missing = [row for row, values in found.items() if values is None]
        for row, computed in zip(missing, self._computed(stage, missing), strict=True):
            found[row] = computed
            cache.write(row, tag, computed)
        return [values for row in rows if (values := found[row]) is not None]

    def _computed(self, stage: int, rows: Sequence[int]) -> Iterator[Activation]:
        per_token = self._shared.chain.manifest.stages[stage].per_token
        dtype = cache_dtype(per_token)
        outputs = self._prefix(rows) if stage < self._shared.chain.manifest.frozen else self._block(stage, rows)
        for row, (output, features) in zip(rows, outputs, strict=True):
            kept = rounded(output[0, : int(self._shared.dataset.lengths[row])] if per_token else output, dtype)
            yield kept if features is None else packed(kept, features[0])

    def _block(self, stage: int, rows: Sequence[int]) -> Iterator[Output]:
        copies = self._shared.chain.theta_of(stage, self._theta)
        for portion in self._portions(rows, self._row_floats):
            for row, before in zip(portion, self._outputs(stage - 1, portion), strict=True):
                padded = self._padded(stage - 1, [before], int(self._shared.padded[row]))
                yield self._run(stage, row, padded.astype(np.float32), copies)

    def _prefix(self, rows: Sequence[int]) -> Sequence[Output]:
        """All frozen stages; of several, only the one that runs is in memory, and none afterwards."""
        chain = self._shared.chain
        streamed = chain.manifest.frozen > 1
        outputs: list[Output | None] = [None] * len(rows)
        for stage in range(chain.manifest.frozen if rows else 0):
            if streamed:
                chain.unload_all_but(range(stage, stage + 1))
            for index, row in enumerate(rows):
                before = outputs[index]
                outputs[index] = self._run(stage, row, None if before is None else before[0], None)
        if rows and streamed:
            chain.unload_all_but(range(0))
        return [output for output in outputs if output is not None]

    def _run(self, stage: int, row: int, before: Float32 | None, copies: Float32 | None) -> Output:
        shared, group = self._shared, Group(np.array([row], dtype=np.int64), int(self._shared.padded[row]))
        shared.check_cancelled()
        shared.cost.add(shared.padded[group.rows], stage, stage + 1)
        text = text_of(shared.dataset, group, shared.chain.manifest.pad_token_id)
        manifest = shared.chain.manifest
        if manifest.features and stage == manifest.frozen - 1:
            return shared.chain.with_features(stage, text, before)
        return shared.chain.activation(stage, text, before, copies), None

    def _row_floats(self, row: int) -> int:
        """How many floats an activation of ``row`` is at most."""
        manifest = self._shared.chain.manifest
        # What the last stage gives goes nowhere; of a language model it is as wide as the vocabulary.
        kept = manifest.stages[: manifest.frozen] if manifest.features else manifest.stages[:-1]
        return int(self._shared.padded[row]) * max(stage.width for stage in kept)

    @staticmethod
    def _portions(items: Sequence[T], floats_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
        """Consecutive ``items`` whose activations may be in memory together, at least one."""
        portion: list[T] = []
        floats = 0
        for item in items:
            size = floats_of(item)
            if portion and floats + size > FLOATS_CARRIED:
                yield portion
                portion, floats = [], 0
            portion.append(item)
            floats += size
        if portion:
            yield portion


def _tags(chain: StageChain, theta: Float32) -> list[int]:
    """For the output of each stage, 64 bits of a hash of the θ that it depends on."""
    digest = hashlib.sha256()
    tags = []
    for stage in range(chain.last):
        if stage >= chain.manifest.frozen:
            digest.update(np.ascontiguousarray(chain.theta_of(stage, theta), dtype="<f4").data)
        tags.append(int.from_bytes(digest.digest()[:8], "little"))
    return tags
