"""Causal language modelling: cross entropy over a completion's tokens; perplexity, tokens predicted, exact match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwdllm_common.task import CAUSAL_LM
from fwdllm_server.tasks.scores import LossScores, Scores
from fwdllm_server.tasks.task import Task, perplexity

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation


class CausalLm(Task):
    """The next token after each token of a text."""

    name = CAUSAL_LM
    least_tokens = 8
    tokens_needed = "prompt and completion need a max_tokens of 8 at least; 128 is usual for short ones"
    auto_class = "AutoModelForCausalLM"
    peft_type = "CAUSAL_LM"
    pipeline = "text-generation"
    label_axes = ("completion", 2)
    has_head = False
    metrics = ("token accuracy", "exact match")
    has_perplexity = True

    def positions(self, labels: Tensor) -> Tensor:
        """Return the positions in ``labels``, int64 ``[N, C]``."""
        return labels.select(2, 0)

    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the mean cross entropy ``[N]`` of ``logits [N, C, vocabulary]`` over each row's tokens.

        ``labels`` int64 ``[N, C, 2]`` are the positions of the logits and the tokens to be predicted there, negative
        where a row has fewer than C.
        """
        import torch
        from torch.nn import functional

        tokens = labels.select(2, 1)
        found = functional.log_softmax(logits, dim=-1).gather(2, tokens.clamp(min=0).unsqueeze(2)).squeeze(2)
        is_token = tokens >= 0
        total = torch.where(is_token, found, torch.zeros(())).sum(dim=1)
        return -(total / is_token.to(logits.dtype).sum(dim=1).clamp(min=1))

    def scored(
        self,
        evaluation: Evaluation,
        dataset: Dataset,  # noqa: ARG002 - the counts say all
        rows: RowIndices,  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
    ) -> Scores:
        """Return accuracy and perplexity."""
        found = evaluation
        return LossScores(found.total, found.loss, accuracy=found.score, perplexity=perplexity(found.loss))

    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002
        """Yield the last words of each text as the completion of those before."""
        for text in texts:
            words = text.split()
            yield {"prompt": " ".join(words[:-3]), "completion": f" {' '.join(words[-3:])}"}

    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return code with a pipeline of transformers."""
        return (
            "from transformers import pipeline\n\n"
            f'generate = pipeline("text-generation", model="{folder}"{trust})\n'
            f"print(generate({text}, max_new_tokens=32, do_sample=False, return_full_text=False))"
        )

    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return code that prints the most probable next token of each text."""
        return f"[{text}]", (
            '(logits,) = session.run(["logits"], feeds)\n'
            'last = feeds["attention_mask"].sum(axis=1) - 1\n'
            "best = logits[range(len(last)), last].argmax(axis=1)\n"
            "print([tokenizer.decode([token]) for token in best])"
        )


TASK = CausalLm()
