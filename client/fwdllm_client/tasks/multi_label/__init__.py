"""Multi-label classification: a row is a text and any number of labels, each of which the model says yes or no to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fwdllm_client.tasks.multi_label.rows import LabelsSource
from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_common.counts import Counts
from fwdllm_common.task import MULTI_LABEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "LabelsSource", "MultiLabel"]


class MultiLabel(Task):
    """Any number of labels for each text."""

    name = MULTI_LABEL
    said = "labels"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> LabelsSource:  # noqa: B008 - has no state
        """Return the source of the rows in the file ``path``."""
        return LabelsSource(path, *options.of_labels)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the mean of each row's binary cross-entropies."""
        return not has_copies and graph.is_mean_binary_cross_entropy("loss", "logits")

    def predictions(
        self,
        dataset: Dataset,  # noqa: ARG002 - the logits say all
        rows: RowIndices,  # noqa: ARG002
        logits: NDArray[np.float32],
        labels: Sequence[str],
    ) -> Sequence[Prediction]:
        """Return the labels of each row whose probability is one half or more."""
        import numpy as np

        with np.errstate(over="ignore"):  # the probability is 0 then
            probabilities = 1 / (1 + np.exp(-logits))
        found = []
        for scores, chances in zip(logits, probabilities, strict=True):
            said = [label for label, score in zip(labels, scores, strict=True) if score >= 0]
            found.append(Prediction(", ".join(said), chances.tolist(), said))
        return found

    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count the rows whose labels are said, and no others."""
        return Counts(int(((logits >= 0) == (dataset.labels[rows] > 0)).all(axis=1).sum()), len(rows))

    def of_texts(self, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise ``texts`` whose labels nobody knows; these are NaN."""
        from fwdllm_client.tasks.multi_label.tokens import of_texts

        return of_texts(texts, tokenizer_file, manifest)

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the texts of a file, whose labels are not read."""
        from fwdllm_client.tasks.multi_label.tokens import of_texts

        source = replace(self.source(path, options), has_labels=False)
        return of_texts((row.text for row in source.rows()), tokenizer_file, manifest)


TASK = MultiLabel()
