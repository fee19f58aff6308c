"""Regression: the mean squared error of one output, and Pearson's and Spearman's correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import REGRESSION
from fwdllm_server.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation
    from fwdllm_server.tasks.regression_scores import RegressionScores


class Regression(Task):
    """A number for each text or pair of texts."""

    name = REGRESSION
    keys = frozenset({"pooling"})
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    pipeline = "text-classification"
    problem = "regression"
    scores = 1
    label_dtype = "float32"
    is_pair = True
    metrics = ("Pearson", "Spearman")
    scores_predictions = True
    need_all_rows = True

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the squared errors ``[N]`` of ``logits [N, 1]``; ``labels`` float32 ``[N]`` are the numbers."""
        difference = logits.squeeze(1) - labels
        return difference * difference

    def scored(
        self,
        evaluation: Evaluation,
        dataset: Dataset,
        rows: RowIndices,
        labels: Sequence[str],  # noqa: ARG002 - has none
    ) -> RegressionScores:
        """Compute scipy's correlations and scikit-learn's errors."""
        from fwdllm_server.tasks.regression_scores import RegressionScores

        said = [each.value for each in evaluation.predictions]
        return RegressionScores.of(dataset.labels[rows].tolist(), said, evaluation.loss)

    def figures(
        self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]
    ) -> tuple[float, float | None]:
        """Return Pearson's and Spearman's correlation."""
        found = self.scored(evaluation, dataset, rows, labels)
        return found.pearson, found.spearman

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002
        """Yield the texts with a number each."""
        for index, text in enumerate(texts):
            yield {"text": text, "label": index / len(texts) - 0.25}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers, whose score is the number."""
        return (
            "from transformers import pipeline\n\n"
            f'value = pipeline("text-classification", model="{folder}"{trust}, truncation=True)\n'
            f'print(value({text})[0]["score"])'
        )

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints the numbers."""
        return f"[{text}]", '(logits,) = session.run(["logits"], feeds)\nprint(logits[:, 0])'


TASK = Regression()
