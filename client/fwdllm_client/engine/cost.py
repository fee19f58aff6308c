"""Counting forward passes, a part of a pass as its share; the shares are the exporter's, the same on every device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.manifest import Manifest


class PassCost:
    """``example_passes`` is rows × forward passes so far."""

    def __init__(self, manifest: Manifest) -> None:
        stages = manifest.stages
        self._multiplications = [stage.multiplications for stage in stages]
        self._on_tokens = [True, *(stage.per_token for stage in stages[:-1])]
        self.example_passes = 0.0

    def add(self, tokens: NDArray[np.int64], first: int, stop: int, times: int = 1) -> None:
        """Count the stages ``[first, stop)`` for rows of these padded lengths."""
        costs = np.array(
            [
                np.full(len(tokens), multiplications) * (tokens if on_tokens else 1)
                for multiplications, on_tokens in zip(self._multiplications, self._on_tokens, strict=True)
            ]
        )
        self.example_passes += times * float((costs[first:stop].sum(axis=0) / costs.sum(axis=0)).sum())
