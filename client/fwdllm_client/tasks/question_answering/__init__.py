"""Extractive question answering: a row is a question, a context and the span of it that answers.

The model scores each token as the first and as the last of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fwdllm_client.tasks.question_answering.rows import QuestionSource
from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_common.counts import Counts
from fwdllm_common.task import QUESTION_ANSWERING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph

__all__ = ["TASK", "QuestionAnswering", "QuestionSource"]


class QuestionAnswering(Task):
    """The span of a context that answers a question."""

    name = QUESTION_ANSWERING
    said = "answer"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> QuestionSource:  # noqa: B008 - has no state
        """Return the source of the questions in the file ``path``."""
        return QuestionSource(path, options.user_column, options.user, options.no_answer)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the mean of each row's two cross entropies over the unmasked tokens."""
        if has_copies:
            return False
        masked = graph.maker(graph.scores_behind("loss", "Neg", "Squeeze", "ReduceMean", axes=(1, -2)), "Where")
        if masked is None:
            return False
        condition, filling, logits = masked.input
        return logits == "logits" and graph.origins(filling) == set() and graph.origins(condition) == {"attention_mask"}

    def predictions(
        self,
        dataset: Dataset,
        rows: RowIndices,
        logits: NDArray[np.float32],
        labels: Sequence[str],  # noqa: ARG002 - has none
    ) -> Sequence[Prediction]:
        """Return the text of each row's best span; "" where the model predicts that there is no answer."""
        return [Prediction(text) for text in _answers(dataset, rows, logits)]

    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count the rows whose best span is an answer word for word, and sum the F1 of all."""
        from fwdllm_client.tasks.question_answering.passages import passages_of
        from fwdllm_client.tasks.question_answering.squad_score import exact_match, f1

        answers = passages_of(dataset).answers
        said = list(zip(rows.tolist(), _answers(dataset, rows, logits), strict=True))
        exact = sum(exact_match(text, answers[row]) for row, text in said)
        return Counts(exact, len(rows), sum(f1(text, answers[row]) for row, text in said))


TASK = QuestionAnswering()


def _answers(dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Iterator[str]:
    from fwdllm_client.tasks.question_answering.passages import passages_of
    from fwdllm_client.tasks.question_answering.spans import answer

    passages = passages_of(dataset)
    for row, scores in zip(rows.tolist(), logits, strict=True):
        yield answer(passages, row, int(dataset.offsets[row]), scores)
