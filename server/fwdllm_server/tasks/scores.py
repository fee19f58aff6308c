"""The metrics of a model's predictions, as each task has them; computing them is left to libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Figure = tuple[str, str]
"""The name of a metric, and its value as people are shown it."""


@dataclass(frozen=True)
class Scores:
    """Metrics of ``rows`` predictions; ``loss`` is the task's, a mean."""

    rows: int
    loss: float

    def figures(self) -> Iterator[Figure]:
        """Yield the metrics that are one number each, the main one first."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class ClassScores:
    """One class: of its ``support`` rows the share found (recall), of the rows called so the share right (precision).

    A share of no rows is 0. Where tags of tokens make up entities, a class is a kind of entity.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class SpanScores(Scores):
    """SQuAD's metrics of answers; ``loss`` in nats is of the rows whose answer the model could see."""

    f1: float
    exact_match: float

    def figures(self) -> Iterator[Figure]:
        """Yield F1, exact match and loss."""
        yield "F1", f"{self.f1:.1%}"
        yield "exact match", f"{self.exact_match:.1%}"
        yield "loss", f"{self.loss:.4f}"


@dataclass(frozen=True)
class LossScores(Scores):
    """The ``accuracy`` of predictions, their mean ``loss`` in nats, and its exponential, the perplexity."""

    accuracy: float
    perplexity: float

    def figures(self) -> Iterator[Figure]:
        """Yield accuracy, loss and perplexity."""
        yield "accuracy", f"{self.accuracy:.1%}"
        yield "loss", f"{self.loss:.4f}"
        yield "perplexity", f"{self.perplexity:.4g}"


def classes_of(scores: Scores) -> Sequence[ClassScores]:
    """Return the metrics of each class; none where the task has no classes."""
    found: Sequence[ClassScores] = getattr(scores, "classes", ())
    return found


def confusion_of(scores: Scores) -> Sequence[Sequence[int]]:
    """Return how many rows of each class were predicted as each class; nothing where the task does not count so."""
    found: Sequence[Sequence[int]] = getattr(scores, "confusion_matrix", ())
    return found
