"""What forward gradients cost: d · f passes for each row (``docs/profiler.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.manifest import Manifest


@dataclass(frozen=True)
class Cost:
    """``coordinates`` of each block, and the ``shares`` of a row's pass that a direction in it takes."""

    coordinates: Mapping[str, int]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, manifest: Manifest, tokens: NDArray[np.int64]) -> Cost:
        """Return the cost of a model on texts of these lengths, int64 ``[rows]``."""
        costs = manifest.row_costs(tokens).sum(axis=1)
        blocks = manifest.layout.blocks
        return cls(
            {name: block.size for name, block in blocks.items()},
            {name: float(costs[manifest.stage_of(name) :].sum() / costs.sum()) for name in blocks},
        )

    @property
    def gradient(self) -> float:
        """Passes for each row of a gradient as good as backpropagation's: Σ d · f over the blocks."""
        return sum(self.coordinates[name] * self.shares[name] for name in self.coordinates)

    def passes(self, rows: int, visits: int) -> float:
        """Return the example-passes of ``visits`` of rows, of which ``rows`` are different ones.

        Each row runs through the frozen layers once. A visit takes the row's own loss and its d · f.
        """
        if not visits:
            return 0.0
        return rows + visits * (max(self.shares.values()) + self.gradient)
