"""How good the model is on local rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.runs import RunInputs, run_groups
from fwdllm_client.engine.stages import Float32


@dataclass(frozen=True)
class Evaluation:
    """``correct`` of ``total`` predictions and the mean loss (NaN over no rows)."""

    correct: int
    total: int
    loss: float


def evaluate(shared: Rows, theta: Float32, rows: RowIndices) -> Evaluation:
    """Predict ``rows`` at ``theta``, float32 ``[d]``."""
    chain = shared.chain
    stage, base = chain.last, BasePass(shared, theta)
    base.fill(stage, rows)
    correct, total_loss = 0, 0.0
    for group in base.ready(stage, run_groups(shared, stage, rows)):
        text, activation, labels = RunInputs(shared, base, stage, group).tiled(1)
        head = [chain.theta_of(stage, theta)]
        losses, logits = chain.loss(stage, text, activation, labels, head, outputs=("loss", "logits"))
        correct += int((logits.argmax(axis=1) == labels).sum())
        total_loss += float(losses.sum(dtype=np.float64))
    shared.cost.add(shared.padded[rows], stage, stage + 1)
    return Evaluation(correct, len(rows), total_loss / len(rows) if len(rows) else math.nan)
