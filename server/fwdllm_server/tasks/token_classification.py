"""Token classification: cross entropies over tagged words, F1 of entities and accuracy of tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import TOKEN_CLASSIFICATION
from fwdllm_server.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation
    from fwdllm_server.tasks.entity_scores import EntityScores


class TokenClassification(Task):
    """A tag for each word."""

    name = TOKEN_CLASSIFICATION
    keys = frozenset({"labels"})
    least_tokens = 4
    tokens_needed = "words need a max_tokens of 4 at least; 128 is usual"
    auto_class = "AutoModelForTokenClassification"
    peft_type = "TOKEN_CLS"
    pipeline = TOKEN_CLASSIFICATION
    label_axes = ("tokens",)
    tags_words = True
    metrics = ("F1", "token accuracy")
    scores_predictions = True
    need_all_rows = True

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the mean cross entropy ``[N]`` of ``logits [N, T, labels]`` over each row's tagged tokens.

        ``labels`` int64 ``[N, T]`` are the tags, negative for a token that has none.
        """
        import torch
        from torch.nn import functional

        found = functional.log_softmax(logits, dim=-1).gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        is_tagged = labels >= 0
        total = torch.where(is_tagged, found, torch.zeros(())).sum(dim=1)
        return -(total / is_tagged.to(logits.dtype).sum(dim=1).clamp(min=1))

    def scored(self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]) -> EntityScores:
        """Compute seqeval's metrics of entities, over the words that the model reads."""
        from fwdllm_server.tasks.entity_scores import EntityScores

        truth = [[labels[tag] for tag in row if tag >= 0] for row in dataset.targets(rows).tolist()]
        said = [[tag for tag in each.value if tag is not None] for each in evaluation.predictions]
        return EntityScores.of(truth, said, evaluation.loss)

    def figures(
        self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]
    ) -> tuple[float, float | None]:
        """Return F1 and the accuracy of tags."""
        found = self.scored(evaluation, dataset, rows, labels)
        return found.f1, found.token_accuracy

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the words of the texts with the tags in turn."""
        for text in texts:
            words = text.split()
            yield {"tokens": words, "ner_tags": [labels[index % len(labels)] for index in range(len(words))]}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers, which puts the tags of words together to entities."""
        return (
            "from transformers import pipeline\n\n"
            f'tag = pipeline("token-classification", model="{folder}"{trust}, aggregation_strategy="first")\n'
            f"print(tag({text}))"
        )

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints each token with its tag."""
        return f"[{text}]", (
            'labels = json.load(open("model/config.json"))["id2label"]\n'
            '(logits,) = session.run(["logits"], feeds)\n'
            "for each, best in zip(texts, logits.argmax(axis=2)):\n"
            "    print([(token, labels[str(tag)]) for token, tag in zip(each.tokens, best)])"
        )


TASK = TokenClassification()
