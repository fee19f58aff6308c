"""Evaluation of the model on local rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

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
    """``correct`` of ``total`` predictions and the mean ``loss`` of rows that have one (NaN if none has).

    For answer spans, ``correct`` counts exact matches and ``f1`` is the sum of F1.
    """

    correct: int
    total: int
    loss: float
    f1: float | None = None

    @property
    def score(self) -> float:
        """Accuracy, or for answer spans the mean F1, 0 to 1."""
        return (self.correct if self.f1 is None else self.f1) / self.total

    @property
    def counts(self) -> Counts:
        """The part of the evaluation that may leave the device."""
        return Counts(self.correct, self.total, self.f1)


def evaluate(shared: Rows, theta: Float32, rows: RowIndices) -> Evaluation:
    """Predict ``rows`` at ``theta``, float32 ``[d]``."""
    dataset = shared.dataset
    found, total_loss = Evaluation(0, 0, math.nan, None if dataset.passages is None else 0.0), 0.0
    for group_rows, losses, logits in scored(shared, theta, rows):
        found = _with(found, dataset, group_rows, logits)
        total_loss += float(losses[dataset.learnable(group_rows)].sum(dtype=np.float64))
    with_loss = int(dataset.learnable(rows).sum())
    return replace(found, loss=total_loss / with_loss if with_loss else math.nan)


def scored(shared: Rows, theta: Float32, rows: RowIndices) -> Iterator[tuple[RowIndices, Float32, Float32]]:
    """Run ``rows`` at ``theta``, float32 ``[d]``, in groups; each row comes once, in an order of its own.

    A group is its row indices ``[N]``, their losses ``[N]`` and their logits, ``[N, labels]`` or ``[N, T, 2]``.
    """
    chain = shared.chain
    stage, base = chain.last, BasePass(shared, theta)
    base.fill(stage, rows)
    head = [chain.theta_of(stage, theta)]
    for group in base.ready(stage, run_groups(shared, stage, rows)):
        text, activation, labels, features = RunInputs(shared, base, stage, group).tiled(1)
        losses, logits = chain.loss(stage, text, activation, labels, head, ("loss", "logits"), features)
        yield group.rows, losses, logits
    shared.cost.add(shared.padded[rows], stage, stage + 1)


def _with(found: Evaluation, dataset: Dataset, rows: RowIndices, logits: Float32) -> Evaluation:
    """Add the predictions of ``logits`` for ``rows`` to ``found``."""
    passages, total = dataset.passages, found.total + len(rows)
    if passages is None:
        correct = int((logits.argmax(axis=1) == dataset.labels[rows]).sum())
        return replace(found, correct=found.correct + correct, total=total)
    exact, overlap = found.correct, found.f1 or 0.0
    for row, scores in zip(rows.tolist(), logits, strict=True):
        prediction = answer(passages, row, int(dataset.offsets[row]), scores)
        exact += exact_match(prediction, passages.answers[row])
        overlap += f1(prediction, passages.answers[row])
    return replace(found, correct=exact, total=total, f1=overlap)
