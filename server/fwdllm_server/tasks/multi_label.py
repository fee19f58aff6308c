"""Multi-label classification: binary cross-entropies over the job's labels, micro and macro F1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import MULTI_LABEL
from fwdllm_server.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation
    from fwdllm_server.tasks.class_scores import MultiLabelScores


class MultiLabel(Task):
    """Any number of labels for each text."""

    name = MULTI_LABEL
    keys = frozenset({"labels", "pooling"})
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    pipeline = "text-classification"
    problem = "multi_label_classification"
    label_axes = ("labels",)
    label_dtype = "float32"
    metrics = ("micro F1", "macro F1")
    scores_predictions = True
    need_all_rows = True

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the means of the binary cross-entropies ``[N]`` of ``logits [N, labels]``.

        ``labels`` float32 ``[N, labels]`` are 1 for a label that a row has, else 0.
        """
        from torch.nn import functional

        # Not functional.binary_cross_entropy_with_logits: its decomposition takes the logarithm of what may be 0.
        return (functional.softplus(logits) - logits * labels).mean(dim=1)

    def scored(
        self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]
    ) -> MultiLabelScores:
        """Compute scikit-learn's metrics of several labels."""
        from fwdllm_server.tasks.class_scores import MultiLabelScores

        said = [[label in each.value for label in labels] for each in evaluation.predictions]
        return MultiLabelScores.of(labels, dataset.labels[rows].tolist(), said, evaluation.loss)

    def figures(
        self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]
    ) -> tuple[float, float | None]:
        """Return micro and macro F1."""
        found = self.scored(evaluation, dataset, rows, labels)
        return found.micro_f1, found.macro_f1

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the texts, each with one label more than the last, then with none again."""
        for index, text in enumerate(texts):
            yield {"text": text, "label": list(labels[: 1 + index % len(labels)])}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers, which gives every label's probability."""
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="{folder}"{trust}, truncation=True, top_k=None)\n'
            f'print([each["label"] for each in classify({text})[0] if each["score"] >= 0.5])'
        )

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints the names of the labels whose probability is one half or more."""
        return f"[{text}]", (
            'labels = json.load(open("model/config.json"))["id2label"]\n'
            '(logits,) = session.run(["logits"], feeds)\n'
            "print([[labels[str(at)] for at in np.flatnonzero(row >= 0)] for row in logits])"
        )


TASK = MultiLabel()
