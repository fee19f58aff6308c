"""What a task is to the coordinator. torch is imported on demand: the process that serves devices does without it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fwdllm_client.data import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.engine import Evaluation
    from fwdllm_server.tasks.scores import Scores


def perplexity(loss: float) -> float:
    """Return the perplexity of a mean cross-entropy in nats; infinite where it is too large for a float."""
    return math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf


_LARGEST_EXPONENT = 700.0
MODEL_KEYS = ("labels", "pooling", "prompt", "verbaliser", "no_answer", "class_weights")
"""The keys of ``[model]`` that not every task has."""


class Task(ABC):
    """One task; the objects have no state.

    ``name`` is that of its :class:`fwdllm_common.task.TaskSpec`. ``keys`` are those of :data:`MODEL_KEYS` that it has,
    ``least_tokens`` the smallest ``max_tokens``, of which ``tokens_needed`` says what for. The model is transformers'
    ``auto_class``, PEFT's ``peft_type``, the hub's ``pipeline`` and its ``problem_type`` ``problem``, with ``scores``
    outputs, None for one a label; ``outputs`` name the exported logits, several the parts of their last axis. Labels
    have the axes ``label_axes`` after that of rows, each a size or ``"tokens"``, ``"completion"`` or ``"labels"``, and
    the dtype ``label_dtype`` of torch. A row ``is_pair`` if it is two texts, a model ``tags_words`` if it has scores
    for each token and reads words, and ``is_class`` if its label is one of the job's labels. A model that ``has_head``
    has one of the task's own, which is trained. ``metrics`` name the main figure, and the one beside it;
    ``has_perplexity`` if the loss is told as a perplexity too. A task ``scores_predictions`` if its further metrics are
    of predictions. Where already its two main ones ``need_all_rows`` in one place, devices have none to report.
    """

    name: str
    keys: frozenset[str] = frozenset()
    least_tokens = 2
    tokens_needed = ""
    auto_class: str
    peft_type: str | None
    pipeline: str
    problem: str | None = None
    scores: int | None = None
    outputs: tuple[str, ...] = ("logits",)
    label_axes: tuple[int | str, ...] = ()
    label_dtype = "int64"
    is_pair = False
    tags_words = False
    is_class = False
    has_head = True
    metrics: tuple[str, ...] = ("accuracy",)
    has_perplexity = False
    scores_predictions = False
    need_all_rows = False

    def positions(self, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the positions of the tokens whose logits the loss reads, int64 ``[N, C]``; None for all logits.

        :param labels: ``[N, *label_axes]``.
        """
        return None

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the loss of each row, float32 ``[N]``, as it is exported.

        The device recognises it: see ``is_loss`` of the device's part.

        :param logits: float32 ``[N, …]``.
        :param labels: ``[N, *label_axes]``.
        :param attention_mask: int64 ``[N, T]``, 0 for padding.
        """

    @abstractmethod
    def scored(self, evaluation: Evaluation, dataset: Dataset, rows: RowIndices, labels: Sequence[str]) -> Scores:
        """Compute all metrics of an evaluation of ``rows``, with predictions if the task ``scores_predictions``.

        :param labels: the model's.
        """

    def figures(
        self,
        evaluation: Evaluation,
        dataset: Dataset,  # noqa: ARG002
        rows: RowIndices,  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
    ) -> tuple[float, float | None]:
        """Return the two ``metrics`` of an evaluation as for :meth:`scored`, None for one that the task has not.

        The evaluation has predictions if the task's metrics ``need_all_rows``.
        """
        return evaluation.score, None if evaluation.f1 is None else evaluation.correct / evaluation.total

    @abstractmethod
    def known_answer_rows(self, texts: Sequence[str], labels: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield a row for each of ``texts``, with the columns of the device's part.

        :param labels: the job's.
        """

    @abstractmethod
    def transformers_code(self, folder: str, trust: str, text: str) -> str:
        """Return Python code that uses the exported model with transformers.

        :param folder: that of the model.
        :param trust: a further argument of ``from_pretrained``, with its comma, or nothing.
        :param text: the expression for a text.
        """

    @abstractmethod
    def onnx_code(self, text: str) -> tuple[str, str]:
        """Return Python code that uses the exported graph: the batch of texts, and what is run on their ``feeds``.

        :param text: the expression for a text.
        """
