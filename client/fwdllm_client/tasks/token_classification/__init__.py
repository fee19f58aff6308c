"""Token classification: a row is a list of words with a tag each, and the model has scores for every token.

A word's tag is learnt and predicted at its first token, as by Hugging Face's collators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_client.tasks.token_classification.rows import TaggedSource
from fwdllm_common.counts import Counts
from fwdllm_common.task import TOKEN_CLASSIFICATION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "TaggedSource", "TokenClassification"]


class TokenClassification(Task):
    """A tag for each word."""

    name = TOKEN_CLASSIFICATION
    said = "tags"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> TaggedSource:  # noqa: B008 - has no state
        """Return the source of the sentences in the file ``path``."""
        return TaggedSource(path, *options.of_labels)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the mean of each row's cross entropies at the tokens that have a tag."""
        return not has_copies and graph.is_mean_over_labelled("loss", "logits")

    def predictions(
        self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32], labels: Sequence[str]
    ) -> Sequence[Prediction]:
        """Return the tag of each word of each row, None for a word that the model does not read."""
        from fwdllm_client.tasks.token_classification.tokens import words_of

        found = []
        for row, best in zip(rows.tolist(), logits.argmax(axis=2), strict=True):
            words = words_of(dataset, row)
            tags: list[str | None] = [None] * words.number
            for position, word in words.first_tokens:
                tags[word] = labels[int(best[position])]
            found.append(Prediction(" ".join(tag or "?" for tag in tags), value=tags))
        return found

    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count the rows whose every tag is right, and sum the shares of right tags of all."""
        targets = dataset.targets(rows, logits.shape[1])
        is_word = targets >= 0
        is_right = ((logits.argmax(axis=2) == targets) & is_word).sum(axis=1)
        words = is_word.sum(axis=1)
        return Counts(int((is_right == words).sum()), len(rows), float((is_right / words.clip(min=1)).sum()))

    def dataset(self, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Dataset:
        """Return the dataset of these rows, whose words nobody knows."""
        from fwdllm_client.tasks.token_classification.tokens import TaggedDataset

        return TaggedDataset.of_targets(token_ids, offsets, targets)

    def to_predict(self, path: Path, options: RowOptions, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the sentences of a file, whose tags are not read."""
        return replace(self.source(path, options), has_tags=False).tokenised(tokenizer_file, manifest)


TASK = TokenClassification()
