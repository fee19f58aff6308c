"""A small fixed workload on which providers and settings of this device are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_client.engine.batches import Group, padded_lengths, text_of
from fwdllm_client.engine.stages import Float32, StageChain
from fwdllm_common.directions import Directions

Clock = Callable[[], float]

_ROWS = 4
_TIMED_RUNS = 3
_RUN_KEY = 0
_THETA_SEED, _DIRECTION_SEED = 1, 2
_THETA_SCALE = np.float32(0.02)
# The presets' step size: a provider whose rounding hides it would give noise for scalars.
_EPSILON = np.float32(1e-3)


@dataclass(frozen=True)
class Answers:
    """Losses of some local rows at a fixed θ, and their rises along a fixed direction; ``N`` values each."""

    losses: tuple[float, ...]
    rises: tuple[float, ...]


class ProviderProbe:
    """A probe on the first rows of ``dataset``, at a random θ at which every part of the model affects the loss."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._rows = np.arange(min(_ROWS, len(dataset)))

    def answers(self, chain: StageChain) -> Answers:
        """Compute the model's losses and rises, with one stage in memory at a time."""
        size = chain.manifest.layout.size
        theta = _THETA_SCALE * Directions(_RUN_KEY).vector(_THETA_SEED, 0, size)
        moved = theta + _EPSILON * Directions(_RUN_KEY).vector(_DIRECTION_SEED, 0, size)
        losses = self._losses(chain, theta)
        return Answers(tuple(losses), tuple(self._losses(chain, moved) - losses))

    def seconds_per_token(self, chain: StageChain, tokens: int, clock: Clock) -> float:
        """Measure seconds per token of the first perturbed stage on about ``tokens`` tokens: the best of a few runs."""
        manifest, first, length = chain.manifest, chain.manifest.frozen, self._length(chain)
        rows = np.resize(self._rows, max(1, tokens // length))
        text = text_of(self._dataset, Group(rows, length), manifest.pad_token_id)
        width = manifest.stages[first - 1].width
        activation = np.random.default_rng(0).normal(size=(len(rows), length, width)).astype(np.float32)
        theta = np.zeros((1, chain.block_size(first)), dtype=np.float32)
        times = []
        for _ in range(1 + _TIMED_RUNS):
            began = clock()
            if chain.last == first:
                labels = np.zeros_like(self._dataset.targets(rows, length))
                chain.loss(first, text, activation, labels, [theta])
            else:
                chain.activation(first, text, activation, theta)
            times.append(clock() - began)
        return min(times[1:]) / (len(rows) * length)

    def _length(self, chain: StageChain) -> int:
        """Return the common padded length of the rows, tokens."""
        return int(padded_lengths(self._dataset.lengths[self._rows], chain.manifest.max_tokens).max())

    def _losses(self, chain: StageChain, theta: Float32) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        text = text_of(self._dataset, Group(self._rows, self._length(chain)), chain.manifest.pad_token_id)
        activation: Float32 | None = None
        for stage in range(chain.last):
            chain.unload_all_but(range(stage, stage + 1))
            copies = chain.theta_of(stage, theta) if stage >= chain.manifest.frozen else None
            activation = chain.activation(stage, text, activation, copies)
        chain.unload_all_but(range(chain.last, chain.last + 1))
        assert activation is not None
        labels = self._dataset.targets(self._rows, self._length(chain))
        (losses,) = chain.loss(chain.last, text, activation, labels, [chain.theta_of(chain.last, theta)])
        return losses.astype(np.float64)
