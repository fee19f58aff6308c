"""Evaluation of the model on local rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.runs import RunInputs, run_groups
from fwdllm_client.engine.stages import Float32
from fwdllm_client.tasks import task_named
from fwdllm_client.tasks.task import Prediction
from fwdllm_common.counts import Counts


@dataclass(frozen=True)
class Evaluation:
    """``correct`` of ``total`` predictions and the mean ``loss`` of rows that have one (NaN if none has).

    For answer spans and completions, ``correct`` counts exact matches and ``f1`` is the sum of F1, or of the shares of
    tokens that are predicted. ``predictions`` are of all rows in their order, if they were asked for.
    """

    correct: int
    total: int
    loss: float
    f1: float | None = None
    predictions: Sequence[Prediction] = ()

    @property
    def score(self) -> float:
        """Accuracy, or the mean F1 or share of tokens, 0 to 1."""
        return (self.correct if self.f1 is None else self.f1) / self.total

    @property
    def counts(self) -> Counts:
        """The part of the evaluation that may leave the device."""
        return Counts(self.correct, self.total, self.f1)


def evaluate(shared: Rows, theta: Float32, rows: RowIndices, predicting: bool = False) -> Evaluation:
    """Evaluate ``rows`` at ``theta``, float32 ``[d]``; with ``predicting`` keep what is predicted."""
    dataset, manifest = shared.dataset, shared.chain.manifest
    task = task_named(manifest.task)
    counts, total_loss, with_loss = Counts(0, 0), 0.0, 0.0
    predicted: dict[int, Prediction] = {}
    for group_rows, losses, logits in scored(shared, theta, rows):
        counts = counts.plus(task.counts(dataset, group_rows, logits))
        is_learnable = dataset.learnable(group_rows)
        weights = dataset.weights(group_rows)[is_learnable]
        total_loss += float((losses[is_learnable] * weights).sum())
        with_loss += float(weights.sum())
        if predicting:
            said = task.predictions(dataset, group_rows, logits, manifest.labels)
            predicted.update(zip(group_rows.tolist(), said, strict=True))
    loss = total_loss / with_loss if with_loss else math.nan
    return Evaluation(
        counts.correct, counts.total, loss, counts.f1, [predicted[row] for row in rows.tolist()] if predicting else ()
    )


def scored(shared: Rows, theta: Float32, rows: RowIndices) -> Iterator[tuple[RowIndices, Float32, Float32]]:
    """Run ``rows`` at ``theta``, float32 ``[d]``, in groups; each row comes once, in an order of its own.

    A group is its row indices ``[N]``, their losses ``[N]`` and their logits, as the task has them.
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
