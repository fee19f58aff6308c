"""The metrics of predicted classes, computed by scikit-learn and named as there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

from fwdllm_server.tasks.scores import ClassScores, Figure, Scores


@dataclass(frozen=True)
class ClassificationScores(Scores):
    """Metrics of classes; ``loss`` is the mean cross-entropy in nats.

    ``classes`` are the labels that a row has or that was predicted, in the model's order; ``macro_f1`` is the mean over
    them. ``confusion_matrix[i][j]`` counts rows of class i that were predicted as class j.
    """

    accuracy: float
    macro_f1: float
    matthews_correlation: float
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
                loss=float(log_loss(wanted, chances, labels=np.arange(len(labels)))),
                accuracy=float(accuracy_score(wanted, predicted)),
                macro_f1=float(f1_score(wanted, predicted, labels=present, average="macro", zero_division=0.0)),
                matthews_correlation=float(matthews_corrcoef(wanted, predicted)),
                classes=[
                    ClassScores(labels[index], float(precision), float(recall), float(f1), int(support))
                    for index, precision, recall, f1, support in zip(present, *shares, strict=True)
                ],
                confusion_matrix=confusion_matrix(wanted, predicted, labels=present).tolist(),
            )

    def figures(self) -> Iterator[Figure]:
        """Yield accuracy, macro F1, Matthews correlation and loss."""
        yield "accuracy", f"{self.accuracy:.1%}"
        yield "macro F1", f"{self.macro_f1:.1%}"
        yield "Matthews correlation", f"{self.matthews_correlation:.3f}"
        yield "loss", f"{self.loss:.4f}"


@dataclass(frozen=True)
class MultiLabelScores(Scores):
    """Metrics of several labels; ``loss`` is the mean binary cross-entropy in nats.

    ``exact_match`` is the share of rows whose labels are all said and no others; ``classes`` are the labels that a row
    has or that were said, and ``macro_f1`` is the mean over them.
    """

    micro_f1: float
    macro_f1: float
    exact_match: float
    classes: Sequence[ClassScores]

    @classmethod
    def of(
        cls, labels: Sequence[str], truth: Sequence[Sequence[float]], said: Sequence[Sequence[bool]], loss: float
    ) -> MultiLabelScores:
        """Compare what is ``said`` of each label with the ``truth``, both ``[rows, labels]``."""
        wanted, found = np.asarray(truth) > 0, np.asarray(said)
        present = np.flatnonzero((wanted | found).any(axis=0))
        shares = precision_recall_fscore_support(wanted, found, zero_division=0.0)
        by_class = [
            ClassScores(label, float(precision), float(recall), float(f1), int(support))
            for label, precision, recall, f1, support in zip(labels, *shares, strict=True)
        ]
        options: dict[str, Any] = {"labels": present, "zero_division": 0.0}
        return cls(
            rows=len(wanted),
            loss=loss,
            micro_f1=float(f1_score(wanted, found, average="micro", zero_division=0.0)),
            macro_f1=float(f1_score(wanted, found, average="macro", **options)) if len(present) else 0.0,
            exact_match=float(accuracy_score(wanted, found)),
            classes=[by_class[index] for index in present],
        )

    def figures(self) -> Iterator[Figure]:
        """Yield both F1, exact match and loss."""
        yield "micro F1", f"{self.micro_f1:.1%}"
        yield "macro F1", f"{self.macro_f1:.1%}"
        yield "exact match", f"{self.exact_match:.1%}"
        yield "loss", f"{self.loss:.4f}"
