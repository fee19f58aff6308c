"""What the model says of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import Rows
from fwdllm_client.engine.evaluate import scored
from fwdllm_client.engine.spans import answer
from fwdllm_client.engine.stages import Float32


@dataclass(frozen=True)
class Prediction:
    """A label and the probability of each of the model's labels, in their order; of a question the answer alone."""

    text: str
    probabilities: Sequence[float] = ()


def predict(shared: Rows, theta: Float32, rows: RowIndices) -> Sequence[Prediction]:
    """Predict ``rows`` at ``theta``, float32 ``[d]``, in their order."""
    found: dict[int, Prediction] = {}
    for group_rows, _, logits in scored(shared, theta, rows):
        for row, scores in zip(group_rows.tolist(), logits, strict=True):
            found[row] = _prediction(shared, row, scores)
    return [found[row] for row in rows.tolist()]


def _prediction(shared: Rows, row: int, scores: Float32) -> Prediction:
    dataset = shared.dataset
    if dataset.passages is not None:
        return Prediction(answer(dataset.passages, row, int(dataset.offsets[row]), scores))
    labels = shared.chain.manifest.labels
    return Prediction(labels[int(scores.argmax())], _softmax(scores).tolist())


def _softmax(scores: Float32) -> Float32:
    powers = np.exp(scores - scores.max())
    probabilities: Float32 = powers / powers.sum()
    return probabilities
