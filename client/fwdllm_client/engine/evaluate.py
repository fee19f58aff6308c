"""How good the model is on local rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.runs import RunInputs, run_groups
from fwdllm_client.engine.spans import answer
from fwdllm_client.engine.squad_score import exact_match, f1
from fwdllm_client.engine.stages import Float32
from fwdllm_common.counts import Counts


@dataclass(frozen=True)
class Evaluation:
    """``correct`` of ``total`` predictions and the mean loss of those that have one (NaN if none has).

    Where spans are answers, ``correct`` are the exact ones and ``f1`` adds up the F1 of all.
    """

    correct: int
    total: int
    loss: float
    f1: float | None = None

    @property
    def score(self) -> float:
        """The figure that counts, 0 to 1: accuracy, or the mean F1."""
        return (self.correct if self.f1 is None else self.f1) / self.total

    @property
    def counts(self) -> Counts:
        """What may leave the device."""
        return Counts(self.correct, self.total, self.f1)


def evaluate(shared: Rows, theta: Float32, rows: RowIndices) -> Evaluation:
    """Predict ``rows`` at ``theta``, float32 ``[d]``."""
    chain, dataset = shared.chain, shared.dataset
    stage, base = chain.last, BasePass(shared, theta)
    base.fill(stage, rows)
    found, total_loss = Evaluation(0, 0, math.nan, None if dataset.passages is None else 0.0), 0.0
    for group in base.ready(stage, run_groups(shared, stage, rows)):
        text, activation, labels, features = RunInputs(shared, base, stage, group).tiled(1)
        head = [chain.theta_of(stage, theta)]
        losses, logits = chain.loss(stage, text, activation, labels, head, ("loss", "logits"), features)
        found = _with(found, dataset, group.rows, logits, labels)
        total_loss += float(losses[dataset.learnable(group.rows)].sum(dtype=np.float64))
    shared.cost.add(shared.padded[rows], stage, stage + 1)
    with_loss = int(dataset.learnable(rows).sum())
    return replace(found, loss=total_loss / with_loss if with_loss else math.nan)


def _with(
    found: Evaluation, dataset: Dataset, rows: RowIndices, logits: Float32, labels: NDArray[np.int64]
) -> Evaluation:
    """``found`` and the predictions that ``logits`` are for ``rows``."""
    passages, total = dataset.passages, found.total + len(rows)
    if passages is None:
        return replace(found, correct=found.correct + int((logits.argmax(axis=1) == labels).sum()), total=total)
    exact, overlap = found.correct, found.f1 or 0.0
    for row, scores in zip(rows.tolist(), logits, strict=True):
        said = answer(passages, row, int(dataset.offsets[row]), scores)
        exact += exact_match(said, passages.answers[row])
        overlap += f1(said, passages.answers[row])
    return replace(found, correct=exact, total=total, f1=overlap)
