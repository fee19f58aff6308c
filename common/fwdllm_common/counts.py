"""The result of a federated evaluation: counts over the local validation rows, never a value of a single row."""

from __future__ import annotations

from typing import NamedTuple

from fwdllm.v1 import device_pb2


class Counts(NamedTuple):
    """``correct`` of ``total`` predictions; for answer spans, exact matches, with the sum of F1 in ``f1``."""

    correct: int
    total: int
    f1: float | None = None

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both together."""
        f1 = None if other.f1 is None else (self.f1 or 0.0) + other.f1
        return Counts(self.correct + other.correct, self.total + other.total, f1)

    def to_message(self) -> device_pb2.EvaluationCounts:
        """Return the counts as a wire message."""
        return device_pb2.EvaluationCounts(correct=self.correct, total=self.total, f1=self.f1)
