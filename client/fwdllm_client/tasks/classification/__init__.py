"""Classification: a row is a text and a label, and the model has a score for each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fwdllm_client.data.readers import Column
from fwdllm_client.data.records import RecordFile, text_of
from fwdllm_client.tasks.classification.rows import DataSource, Row
from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_common.counts import Counts
from fwdllm_common.task import CLASSIFICATION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "Classification", "DataSource", "Row"]


class Classification(Task):
    """One class of several for each text."""

    name = CLASSIFICATION
    said = "label"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> DataSource:  # noqa: B008 - has no state
        """Return the source of the rows in the file ``path``."""
        return DataSource(path, *options.of_labels)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the cross entropy of each row, or of each row and copy, ``[N, P]``."""
        if has_copies:  # labels are looked up in every copy's logits
            return graph.scores_behind("loss", "Neg", "Squeeze", axes=(2, -1), is_expanded=True) == "logits"
        fused = graph.maker("loss", "SoftmaxCrossEntropyLoss")
        if fused is not None:
            is_plain = {each.name: each.s for each in fused.attribute} == {"reduction": b"none"}
            return is_plain and list(fused.input) == ["logits", "labels"] and graph.times_read("labels") == 1
        return graph.scores_behind("loss", "Neg", "Squeeze", axes=(1, -1)) == "logits"

    def predictions(
        self,
        dataset: Dataset,  # noqa: ARG002 - the logits say all
        rows: RowIndices,  # noqa: ARG002
        logits: NDArray[np.float32],
        labels: Sequence[str],
    ) -> Sequence[Prediction]:
        """Return the most probable label of each row."""
        import numpy as np

        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        return [
            Prediction(labels[int(best)], row.tolist())
            for best, row in zip(logits.argmax(axis=1), probabilities, strict=True)
        ]

    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count the rows whose own class has the highest score."""
        return Counts(int((logits.argmax(axis=1) == dataset.labels[rows]).sum()), len(rows))

    def of_texts(self, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise ``texts`` whose labels nobody knows; these are -1."""
        from fwdllm_client.tasks.classification.tokens import of_texts

        return of_texts(texts, tokenizer_file, manifest)

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the texts of a file, whose labels are not read."""
        return self.of_texts(_texts(path, options.text_column), tokenizer_file, manifest)


TASK = Classification()


def _texts(path: Path, column: str) -> Iterator[str]:
    source = RecordFile(path, (Column(column, "--text-column"),))
    for line, (value,) in source.records():
        yield text_of(source.place(line), column, value)
