"""Classification: cross entropy over the job's labels, and accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation
    from fwdllm_server.tasks.scores import Scores


class Classification(Task):
    """One class of several for each text."""

    name = CLASSIFICATION
    keys = frozenset({"labels", "pooling", "prompt", "verbaliser", "class_weights"})
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    pipeline = "text-classification"
    is_class = True
    scores_predictions = True

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the cross entropies ``[N]`` of ``logits [N, labels]`` at ``labels``, int64 ``[N]``."""
        from torch.nn import functional

        # Not functional.cross_entropy: its operator is exported with a wrong output shape.
        return -functional.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)

    def scored(self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]) -> Scores:
        """Compute scikit-learn's metrics of classes."""
        from fwdllm_server.tasks.class_scores import ClassificationScores

        probabilities = [each.probabilities for each in evaluation.predictions]
        return ClassificationScores.of(labels, dataset.labels[rows].tolist(), probabilities)

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the texts with the labels in turn."""
        for index, text in enumerate(texts):
            yield {"text": text, "label": labels[index % len(labels)]}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers."""
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="{folder}"{trust}, truncation=True)\n'
            f"print(classify({text}))"
        )

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints the names of the most probable labels."""
        return f"[{text}]", (
            'labels = json.load(open("model/config.json"))["id2label"]\n'
            '(logits,) = session.run(["logits"], feeds)\n'
            "print([labels[str(best)] for best in logits.argmax(axis=1)])"
        )


TASK = Classification()
