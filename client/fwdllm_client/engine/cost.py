"""Counting forward passes, a part of a pass as its share; the shares are the exporter's, the same on every device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.manifest import Manifest


class PassCost:
    """``example_passes`` is rows × forward passes so far."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.example_passes = 0.0

    def add(self, tokens: NDArray[np.int64], first: int, stop: int, times: int = 1) -> None:
        """Count the stages ``[first, stop)`` for rows of these padded lengths."""
        costs = self._manifest.row_costs(tokens)
        self.example_passes += times * float((costs[first:stop].sum(axis=0) / costs.sum(axis=0)).sum())
