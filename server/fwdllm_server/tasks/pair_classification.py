"""Classification of pairs: as for single texts, with the model told which text is the second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fwdllm_common.task import PAIR_CLASSIFICATION
from fwdllm_server.tasks.classification import Classification


class PairClassification(Classification):
    """One class of several for each pair of texts."""

    name = PAIR_CLASSIFICATION
    keys = frozenset({"labels", "pooling", "class_weights"})
    least_tokens = 8
    tokens_needed = "two texts need a max_tokens of 8 at least; 128 is usual"
    is_pair = True

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield each text with the next one, and the labels in turn."""
        for index, text in enumerate(texts):
            yield {
                "text": text,
                "text_pair": texts[(index + 1) % len(texts)],
                "label": labels[index % len(labels)],
            }

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers."""
        return super().transformers_code(folder, trust, f'{{"text": {text}, "text_pair": "another text"}}')

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints the names of the most probable labels."""
        return f'[({text}, "another text")]', super().onnx_code(text)[1]


TASK = PairClassification()
