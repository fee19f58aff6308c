"""Regression: a row is a text, or a pair of texts, and a number, which the model's one output is to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fwdllm_client.tasks.regression.rows import ValueSource
from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_common.counts import Counts
from fwdllm_common.task import REGRESSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "Regression", "ValueSource"]


class Regression(Task):
    """A number for each text or pair of texts."""

    name = REGRESSION
    said = "value"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> ValueSource:  # noqa: B008 - has no state
        """Return the source of the rows in the file ``path``."""
        return ValueSource(path, *options.of_labels, options.pair_column)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the square of the difference of each row's one output and its number."""
        return not has_copies and graph.is_squared_error("loss", "logits")

    def predictions(
        self,
        dataset: Dataset,  # noqa: ARG002 - the logits say all
        rows: RowIndices,  # noqa: ARG002
        logits: NDArray[np.float32],
        labels: Sequence[str],  # noqa: ARG002 - has none
    ) -> Sequence[Prediction]:
        """Return the number of each row, as a text too."""
        return [Prediction(f"{value:.4g}", value=value) for value in logits[:, 0].astype(float).tolist()]

    def counts(
        self,
        dataset: Dataset,  # noqa: ARG002
        rows: RowIndices,
        logits: NDArray[np.float32],  # noqa: ARG002
    ) -> Counts:
        """Count the rows: no number is right or wrong."""
        return Counts(0, len(rows))

    def of_texts(self, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise ``texts`` whose numbers nobody knows; these are NaN."""
        from fwdllm_client.tasks.regression.tokens import of_texts

        return of_texts(texts, tokenizer_file, manifest)

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the texts or pairs of a file, whose numbers are not read."""
        from fwdllm_client.tasks.regression.tokens import of_texts

        source = replace(self.source(path, options), has_labels=False)
        return of_texts((row.text for row in source.rows()), tokenizer_file, manifest)


TASK = Regression()
