"""A round's forward gradients are made once: its verdict, its update and the next reference use the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.estimator import forward_gradient
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_common.orthogonal import AnyDirections


class LastEstimates:
    """ĝ as of :func:`fwdllm_common.estimator.forward_gradient`, kept until another is asked for of the same block.

    Arrays are not to be written to. Two threads that ask for different estimates both get their own.
    """

    def __init__(self) -> None:
        self._kept: dict[Block, tuple[tuple[AnyDirections, bytes, bytes], Float32Vector]] = {}

    def __call__(
        self, directions: AnyDirections, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], block: Block
    ) -> Float32Vector:
        """ĝ over one block, float32 ``[block size]``, read-only."""
        asked = (directions, seeds.tobytes(), coefficients.tobytes())
        kept = self._kept.get(block)
        if kept is not None and kept[0] == asked:
            return kept[1]
        estimate = forward_gradient(directions, seeds, coefficients, block)
        estimate.flags.writeable = False
        self._kept[block] = (asked, estimate)
        return estimate
