"""The metrics of a model's predictions, computed by scikit-learn and named as there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
)


@dataclass(frozen=True)
class ClassScores:
    """One class: of its ``support`` rows the share found (recall), of the rows called so the share right (precision).

    A share of no rows is 0.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationScores:
    """Metrics of ``rows`` predictions; ``loss`` is the mean cross-entropy in nats.

    ``classes`` are the labels that a row has or that was predicted, in the model's order; ``macro_f1`` is the mean over
    them. ``confusion_matrix[i][j]`` counts rows of class i that were predicted as class j.
    """

    rows: int
    accuracy: float
    macro_f1: float
    matthews_correlation: float
    loss: float
    classes: Sequence[ClassScores]
    confusion_matrix: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, labels: Sequence[str], truth: Sequence[int], probabilities: Sequence[Sequence[float]]
    ) -> ClassificationScores:
        """Compare ``probabilities`` ``[rows, labels]`` with ``truth`` ``[rows]``, indices of the right ``labels``."""
        wanted, chances = np.asarray(truth), np.asarray(probabilities, dtype=np.float64)
        chances /= chances.sum(axis=1, keepdims=True)  # they come from float32
        predicted = chances.argmax(axis=1)
        present = np.union1d(wanted, predicted)
        with warnings.catch_warnings():
            # Rows of one class that are all predicted as it: their matrix is 1 × 1, their correlation 0.
            warnings.filterwarnings("ignore", "A single label was found", UserWarning)
            shares = precision_recall_fscore_support(wanted, predicted, labels=present, zero_division=0.0)
            return cls(
                rows=len(wanted),
                accuracy=float(accuracy_score(wanted, predicted)),
                macro_f1=float(f1_score(wanted, predicted, labels=present, average="macro", zero_division=0.0)),
                matthews_correlation=float(matthews_corrcoef(wanted, predicted)),
                loss=float(log_loss(wanted, chances, labels=np.arange(len(labels)))),
                classes=[
                    ClassScores(labels[index], float(precision), float(recall), float(f1), int(support))
                    for index, precision, recall, f1, support in zip(present, *shares, strict=True)
                ],
                confusion_matrix=confusion_matrix(wanted, predicted, labels=present).tolist(),
            )

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class SpanScores:
    """SQuAD's metrics of ``rows`` answers; ``loss`` in nats is of the rows whose answer the model could see."""

    rows: int
    f1: float
    exact_match: float
    loss: float

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class LossScores:
    """The share of right predictions of ``rows``, their mean ``loss`` in nats, and its exponential, the perplexity."""

    rows: int
    accuracy: float
    loss: float
    perplexity: float

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)


Scores = ClassificationScores | SpanScores | LossScores
