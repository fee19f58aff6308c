"""Which of the evaluated versions is the best."""

from __future__ import annotations

from math import inf, nan

import pytest

from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.tasks import task_named
from fwdllm_server.views.versions import best_of


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.5)], 1),
        ([(0.5, 1.0), (0.7, 2.0), (0.7, 1.5)], 2),
        ([(0.7, 1.5), (0.7, 1.5)], 0),
        ([(0.2, 1.5), (0.9, nan), (0.9, inf)], 0),
        ([(0.2, nan)], 0),
    ],
)
def test_accuracy_counts_first_then_the_loss_then_the_age(evaluations: list[tuple[float, float]], best: int) -> None:
    found = [EvaluationRecord(version, *figures, rows=10) for version, figures in enumerate(evaluations)]
    assert best_of(found, task_named("classification")).version == best


def test_of_language_models_the_loss_counts_first() -> None:
    figures = [(0.5, 1.0), (0.7, 2.0), (0.4, 0.5), (0.6, 0.5), (0.9, nan)]
    found = [EvaluationRecord(version, *each, rows=10) for version, each in enumerate(figures)]
    assert best_of(found, task_named("causal-lm")).version == 3
