"""Sizes of runs under a memory budget: groups of rows, and copies of θ per run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.batches import Group, Text, group_by_doubling, group_by_length, text_of
from fwdllm_client.engine.stages import Float32

TOKENS_PER_RUN = 256
"""Most tokens (copies × rows × length) in a run on tokens, unless the device's tuning has found a better number."""
FLOATS_PER_RUN = 1 << 20
"""Most floats (copies × rows × width) in a run on pooled activations, and in the perturbed copies of a block."""


def run_groups(shared: Rows, stage: int, rows: RowIndices) -> list[Group]:
    """Split ``rows`` into groups that run together from ``stage`` on, by length if the stages read tokens.

    The tokens of a group of a chain at targets are those to be predicted.
    """
    if shared.chain.manifest.at_targets:
        return list(group_by_doubling(rows, shared.lengths[rows], FLOATS_PER_RUN // _widest(shared, stage)))
    if shared.chain.manifest.features:
        return list(group_by_doubling(rows, shared.padded[rows], FLOATS_PER_RUN // _width_kept(shared)))
    if shared.chain.reads_tokens(stage):
        return list(group_by_length(rows, shared.padded[rows], shared.tokens_per_run))
    size = max(1, FLOATS_PER_RUN // _width_before(shared, stage))
    return [Group(rows[start : start + size], 0) for start in range(0, len(rows), size)]


def copies_per_run(shared: Rows, stage: int, groups: list[Group]) -> int:
    """Return how many perturbed copies run together, at least 1."""
    theta = FLOATS_PER_RUN // shared.chain.block_size(stage)
    if shared.chain.manifest.features:
        lines = max(len(group.rows) * (group.tokens if shared.chain.manifest.at_targets else 1) for group in groups)
        return max(1, min(theta, FLOATS_PER_RUN // (lines * _widest(shared, stage))))
    if shared.chain.reads_tokens(stage):
        activations = shared.tokens_per_run // max(len(group.rows) * group.tokens for group in groups)
    else:
        activations = FLOATS_PER_RUN // (max(len(group.rows) for group in groups) * _width_before(shared, stage))
    return max(1, min(theta, activations))


Inputs = tuple[Text | None, Float32, NDArray[np.int64], Float32 | None]
"""Text (None for pooled stages), activation, labels, and features if the chain has them, as inputs of a stage chain."""


class RunInputs:
    """The inputs of a group except θ, for ``stage`` and later ones; construction computes the base activation."""

    def __init__(self, shared: Rows, base: BasePass, stage: int, group: Group) -> None:
        self._is_at_targets = shared.chain.manifest.at_targets
        self._activation = base.before(stage, group)
        self._features = base.features(group) if shared.chain.manifest.features else None
        self._labels = shared.dataset.targets(group.rows, group.tokens)
        reads_tokens = shared.chain.reads_tokens(stage)
        self._text = text_of(shared.dataset, group, shared.chain.manifest.pad_token_id) if reads_tokens else None

    def tiled(self, copies: int) -> Inputs:
        """Return the inputs of the group's rows, repeated for each copy of θ unless the stages do so themselves."""
        activation = self._activation.astype(np.float32)
        if self._features is not None and self._is_at_targets:
            return self._text, activation, _tiled(self._labels, copies), _tiled(self._features, copies)
        if self._features is not None:
            return self._text, activation, self._labels, self._features
        text = self._text and Text(_tiled(self._text.input_ids, copies), _tiled(self._text.attention_mask, copies))
        return text, _tiled(activation, copies), _tiled(self._labels, copies), None


class TiledBatch:
    """The groups of a batch, repeated for several copies of θ; a single group is tiled once, not for every run."""

    def __init__(self, groups: list[RunInputs]) -> None:
        self._groups = groups
        self._kept: tuple[int, list[Inputs]] = (0, [])

    def inputs(self, copies: int) -> Iterable[Inputs]:
        """Return the inputs of each group for this number of copies of θ."""
        if len(self._groups) > 1:
            return (group.tiled(copies) for group in self._groups)
        if self._kept[0] != copies:
            self._kept = (copies, [group.tiled(copies) for group in self._groups])
        return self._kept[1]


def _tiled(rows: NDArray[Any], copies: int) -> NDArray[Any]:
    return np.tile(rows, (copies, *(1,) * (rows.ndim - 1)))


def _widest(shared: Rows, stage: int) -> int:
    return max(each.width for each in shared.chain.manifest.stages[stage:])


def _width_before(shared: Rows, stage: int) -> int:
    return shared.chain.manifest.stages[stage - 1].width


def _width_kept(shared: Rows) -> int:
    return _width_before(shared, shared.chain.manifest.frozen)
