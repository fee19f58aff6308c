"""Classification of pairs: a row is two texts and a label, as in inference, paraphrase and retrieval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fwdllm_client.tasks.classification import Classification
from fwdllm_client.tasks.pair_classification.rows import PairSource
from fwdllm_client.tasks.task import RowOptions, Task
from fwdllm_common.task import PAIR_CLASSIFICATION

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "PairClassification", "PairSource"]


class PairClassification(Classification):
    """One class of several for each pair of texts."""

    name = PAIR_CLASSIFICATION

    def source(self, path: Path, options: RowOptions = RowOptions()) -> PairSource:  # noqa: B008 - has no state
        """Return the source of the pairs in the file ``path``."""
        return PairSource(path, *options.of_labels, options.pair_column)

    def of_texts(self, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Refuse: a row is two texts."""
        return Task.of_texts(self, texts, tokenizer_file, manifest)

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the pairs of a file, whose labels are not read."""
        from fwdllm_client.tasks.classification.tokens import of_texts

        source = replace(self.source(path, options), has_labels=False)
        return of_texts((row.text for row in source.rows()), tokenizer_file, manifest)


TASK = PairClassification()
