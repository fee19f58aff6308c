"""The metrics of predicted classes, computed by scikit-learn and named as there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
