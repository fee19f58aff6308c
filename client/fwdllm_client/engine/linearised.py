"""The loss near θ by its slopes (decision 0027): what a direction moves times the derivative of the loss by it.

One pass at θ gives the slopes, the derivative of each predicted token's loss by what the block's stage returns. For a
direction only that stage runs again, on the tokens to be predicted, and not the vocabulary's softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.engine.base_pass import Rows
from fwdllm_client.engine.batches import Group
from fwdllm_client.engine.runs import FLOATS_PER_RUN, RunInputs
from fwdllm_client.engine.stages import Float32


class LinearisedLoss:
    """The change of the mean loss over a batch's tokens, to first order in what ``stage`` returns.

    ``inputs`` are those of the ``groups`` of the batch.
    """

    def __init__(
        self, shared: Rows, theta: Float32, stage: int, groups: Sequence[Group], inputs: Sequence[RunInputs]
    ) -> None:
        self._shared, self._stage = shared, stage
        self._rows = np.concatenate([group.rows for group in groups])
        chain, slopes, states = shared.chain, [], []
        at_theta = [chain.theta_of(index, theta) for index in range(stage, chain.last + 1)]
        for group, each in zip(groups, inputs, strict=True):
            text, activation, labels, features = each.tiled(1)
            (found,) = chain.loss(stage, text, activation, labels, at_theta, ("slopes",), features)
            is_token = np.arange(group.tokens) < shared.lengths[group.rows, None]
            slopes.append(found[is_token])
            states.append(activation[is_token])
        self._states = np.concatenate(states)[None]
        self._slopes = np.concatenate(slopes).reshape(-1).astype(np.float64) / self._states.shape[1]
        shared.count(self._rows, chain.last, chain.last + 1)
        self._base = self._returned(at_theta[0])

    @property
    def copies_per_run(self) -> int:
        """How many perturbed copies run together, at least 1."""
        return max(1, FLOATS_PER_RUN // max(self._shared.chain.block_size(self._stage), self._base.size))

    def __call__(self, copies: Float32) -> NDArray[np.float64]:
        """Return the change from θ to each of ``copies`` of the block, ``[P, block size]``: float64 ``[P]``."""
        self._shared.count(self._rows, self._stage, self._stage + 1, times=len(copies))
        # The difference is exact where it is small; only then does it go into a long sum.
        moved = (self._returned(copies) - self._base).astype(np.float64)
        changes: NDArray[np.float64] = moved @ self._slopes
        return changes

    def _returned(self, copies: Float32) -> Float32:
        return self._shared.chain.activation(self._stage, None, self._states, copies).reshape(len(copies), -1)
