"""Count of forward passes. A part of a pass counts by its share of the multiplications in the manifest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.manifest import Manifest


class PassCost:
    """A counter; ``example_passes`` is rows × forward passes so far."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.example_passes = 0.0

    def add(
        self, tokens: NDArray[np.int64], first: int, stop: int, times: int = 1, targets: NDArray[np.int64] | None = None
    ) -> None:
        """Count ``times`` runs of the stages ``[first, stop)`` for rows of these padded lengths, int64 ``[rows]``.

        :param targets: how many tokens of each row are predicted, for a chain that makes a difference.
        """
        costs = self._manifest.row_costs(tokens, targets)
        self.example_passes += times * float((costs[first:stop].sum(axis=0) / costs.sum(axis=0)).sum())
