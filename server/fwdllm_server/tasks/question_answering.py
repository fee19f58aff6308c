"""Extractive question answering: cross entropies of start and end over the text's tokens; F1 and exact match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import QUESTION_ANSWERING
from fwdllm_server.tasks.scores import Scores, SpanScores
from fwdllm_server.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation

_QUESTION = "Which?"


class QuestionAnswering(Task):
    """The span of a context that answers a question."""

    name = QUESTION_ANSWERING
    keys = frozenset({"no_answer"})
    least_tokens = 16
    tokens_needed = "question and context need a max_tokens of 16 at least; 384 is usual"
    auto_class = "AutoModelForQuestionAnswering"
    # Not "QUESTION_ANS": with it PEFT drops token_type_ids (findings/peft_question_answering_segments.sh).
    peft_type = None
    pipeline = QUESTION_ANSWERING
    scores = 2
    outputs = ("start_logits", "end_logits")
    label_axes = (2,)
    is_pair = True
    metrics = ("F1", "exact match")

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the mean of the cross entropies of a span's start and end, ``[N]``, over the text's tokens alone.

        ``logits [N, T, 2]`` score every token as start and as end, ``labels`` int64 ``[N, 2]`` are the two tokens'
        indices. Hugging Face's loss includes the padding, and so depends on the length that a row is padded to.
        """
        import torch
        from torch.nn import functional

        scores = logits.masked_fill(attention_mask[:, :, None] == 0, torch.finfo(logits.dtype).min)
        return -functional.log_softmax(scores, dim=1).gather(1, labels[:, None, :]).mean(dim=2).squeeze(1)

    def scored(
        self,
        evaluation: Evaluation,
        dataset: Dataset,  # noqa: ARG002 - the counts say all
        rows: RowIndices,  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
    ) -> Scores:
        """Return SQuAD's metrics."""
        found = evaluation
        return SpanScores(found.total, found.loss, f1=found.score, exact_match=found.correct / found.total)

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002
        """Yield questions that are answered by a word near the beginning of a text, which truncation keeps."""
        for index, text in enumerate(texts):
            word = text.split()[1 + index % 3]
            yield {"question": _QUESTION, "context": text, "answer_start": text.index(word), "answer": word}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:  # noqa: ARG002 - reads two
        """Return code that loads model and tokenizer."""
        return (
            f"from transformers import {self.auto_class}, AutoTokenizer\n\n"
            f'model = {self.auto_class}.from_pretrained("{folder}"{trust}).eval()\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})'
        )

    def onnx_code(self, text: str) -> tuple[str, str]:  # noqa: ARG002 - reads two
        """Return code that computes the scores of starts and of ends."""
        last = 'starts, ends = session.run(["start_logits", "end_logits"], feeds)'
        return '[("a question", "its context")]', last


TASK = QuestionAnswering()
