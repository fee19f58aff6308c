"""What a federated evaluation comes to: counts over the local validation rows, nothing of a single one."""

from __future__ import annotations

from typing import NamedTuple

from fwdllm.v1 import device_pb2


class Counts(NamedTuple):
    """``correct`` of ``total`` predictions; where spans are answers, these are the exact ones and ``f1`` adds up F1."""

    correct: int
    total: int
    f1: float | None = None

    def to_message(self) -> device_pb2.EvaluationCounts:
        """The counts as they go over the wire."""
        return device_pb2.EvaluationCounts(correct=self.correct, total=self.total, f1=self.f1)
