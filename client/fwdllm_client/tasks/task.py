"""What a task is to a device. Whatever needs numpy is imported on demand: an idle device does without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwdllm_client.data.source import Source
from fwdllm_common.counts import Counts
from fwdllm_common.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a file are read; a task takes what it knows of it.

    With ``user_column`` and ``user`` only the rows with the value ``user`` in that column are used, so that one file
    can serve many devices. With ``skip_incomplete`` rows without a text or a label are left out; otherwise they are
    errors. With ``no_answer`` questions without an answer are rows too. The ``pair_column`` has the second texts of
    pairs.
    """

    text_column: str = "text"
    label_column: str = "label"
    user_column: str | None = None
    user: str | None = None
    skip_incomplete: bool = False
    no_answer: bool = False
    pair_column: str | None = None

    @property
    def of_labels(self) -> tuple[str, str, str | None, str | None, bool]:
        """Those that every source of labelled rows has, in the order of its fields after the path."""
        return (self.text_column, self.label_column, self.user_column, self.user, self.skip_incomplete)


@dataclass(frozen=True)
class Prediction:
    """What the model says of a row, and where it chooses between labels, the probability of each, in their order.

    Where it says something else than a ``text``, that is the ``value``, as JSON can hold it.
    """

    text: str
    probabilities: Sequence[float] = ()
    value: Any = None


class Task(ABC):
    """One task; the objects have no state.

    ``name`` is that of its :class:`fwdllm_common.task.TaskSpec`, ``said`` what a prediction is called.
    """

    name: str
    said: str

    @abstractmethod
    def source(self, path: Path, options: RowOptions = RowOptions()) -> Source:
        """Return the source of the rows in the file ``path``.

        :raises BadInputError: an unknown file type, or only one of user column and user.
        """

    @abstractmethod
    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Return whether the output ``loss`` of the last stage is the task's loss of its ``logits`` and ``labels``.

        Where the graph ``has_copies`` of θ on an axis of their own, it is that of each row with each copy.
        """

    @abstractmethod
    def predictions(
        self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32], labels: Sequence[str]
    ) -> Sequence[Prediction]:
        """Return the prediction of each of ``rows``, whose logits are float32 ``[N, …]``, in their order.

        ``labels`` are the names of the manifest.
        """

    @abstractmethod
    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count what is right among the predictions of ``rows``, whose logits are float32 ``[N, …]``."""

    def dataset(self, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Dataset:
        """Return the dataset of these rows whose targets a :class:`Dataset` of the task has given."""
        from fwdllm_client.data.dataset import Dataset

        return Dataset.of_targets(token_ids, offsets, targets)

    def of_texts(self, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:  # noqa: ARG002
        """Tokenise ``texts`` whose labels nobody knows.

        :raises BadInputError: rows of the task are more than a text, or the tokenizer's file is damaged.
        """
        raise BadInputError(f"the model's task is {self.name}, a text alone is for another")

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows of a file in order to predict them.

        :raises BadInputError: the file or a row is wrong.
        """
        return self.source(path, options).tokenised(tokenizer_file, manifest)

    def shown(self, prediction: Prediction, labels: Sequence[str]) -> Mapping[str, Any]:
        """Return a prediction as people and programs are shown it."""
        said = prediction.text if prediction.value is None else prediction.value
        if not prediction.probabilities:
            return {self.said: said}
        return {self.said: said, "probabilities": dict(zip(labels, prediction.probabilities, strict=True))}
