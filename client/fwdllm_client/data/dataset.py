"""The local examples as model inputs: token ids in a flat array, and a label for each row or each token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data.source import Source
from fwdllm_client.data.split import RowIndices
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

IGNORED = -100
"""The label of a token that has none, as in Hugging Face's collators."""


@dataclass(frozen=True)
class Dataset:
    """Tokenised rows: row i is ``token_ids[offsets[i]:offsets[i + 1]]`` with the label ``labels[i]``.

    ``token_ids`` int32 ``[tokens]``, ``offsets`` int64 ``[rows + 1]``. No row is empty. ``labels`` are int32 or float32
    ``[rows, …]``, as the task has them: a class, several numbers, a value. A negative integer or a NaN is no label.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 ``[rows]``, at least 1."""
        return np.diff(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over tokens and labels, which identifies the data."""
        digest = hashlib.sha256()
        labels = "<i4" if self.labels.dtype.kind == "i" else "<f4"
        for array, kind in ((self.offsets, "<i8"), (self.token_ids, "<i4"), (self.labels, labels)):
            digest.update(np.ascontiguousarray(array, dtype=kind).data)
        return digest.hexdigest()

    def learnable(self, rows: RowIndices) -> NDArray[np.bool_]:
        """Return which of ``rows`` have a label, bool ``[N]``; a question whose answer is cut off has none."""
        labels = self.labels[rows]
        is_known = labels >= 0 if labels.dtype.kind == "i" else ~np.isnan(labels)
        found: NDArray[np.bool_] = np.all(is_known, axis=tuple(range(1, labels.ndim)))
        return found

    def classes(self, rows: RowIndices) -> NDArray[np.int64]:
        """Return the indices of the model's labels that one of ``rows`` has, ascending, for tasks with labels."""
        labels = self.labels[rows]
        return np.unique(labels) if labels.ndim == 1 else np.flatnonzero((labels > 0).any(axis=0))

    def weights(self, rows: RowIndices) -> NDArray[np.float64]:
        """Return how much the loss of each of ``rows`` counts in a mean over rows, float64 ``[N]``."""
        return np.ones(len(rows))

    def weighted(self, class_weights: Sequence[float]) -> Dataset:
        """Return these rows, each weighted by that of its class in means over rows; all alike if there are none."""
        if not class_weights:
            return self
        return WeightedDataset(self.token_ids, self.offsets, self.labels, np.array(class_weights))

    @property
    def records(self) -> NDArray[np.int64]:
        """The index in the file of what each row comes from, int64 ``[rows]``; a long text may be several rows."""
        return np.arange(len(self))

    def targets(self, rows: RowIndices, tokens: int = 0) -> NDArray[Any]:  # noqa: ARG002 - labels of tokens need it
        """Return the labels of ``rows`` padded to ``tokens`` tokens, for the model; 0 where there is none.

        They are int64 or float32 ``[N, …]``.
        """
        labels: NDArray[Any] = self.labels[rows]
        if labels.dtype.kind == "i":
            labels = np.maximum(labels, 0).astype(np.int64)
        else:
            labels = np.nan_to_num(labels).astype(np.float32)
        return labels

    @classmethod
    def of_targets(cls, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Self:
        """Return the dataset of these rows whose labels :meth:`targets` has given for all of them together."""
        return cls(token_ids, offsets, targets.astype(np.int32 if targets.dtype.kind == "i" else np.float32))

    @staticmethod
    def load(source: Source, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows of ``source``, truncated to the model's ``max_tokens``.

        A text without any token becomes a single padding token.

        :raises BadInputError: the file or a row is wrong, a label is not one of the model's, nothing can be learnt, or
            the rows are for another task.
        """
        if source.task != manifest.task:
            raise BadInputError(
                f"{source.path}: the model's task is {manifest.task}, these rows are for another; choose it with --task"
            )
        return source.tokenised(tokenizer_file, manifest)


@dataclass(frozen=True)
class WeightedDataset(Dataset):
    """Tokenised rows whose classes have weights, ``class_weights`` float64 ``[classes]``."""

    class_weights: NDArray[np.float64]

    def weights(self, rows: RowIndices) -> NDArray[np.float64]:
        """Return the weight of the class of each of ``rows``, float64 ``[N]``; of a row without a label that of 0."""
        found: NDArray[np.float64] = self.class_weights[np.maximum(self.labels[rows], 0)]
        return found


@dataclass(frozen=True)
class TokenDataset(Dataset):
    """Tokenised rows with a label for each token: ``labels`` int32 ``[tokens]``, :data:`IGNORED` where it has none."""

    def learnable(self, rows: RowIndices) -> NDArray[np.bool_]:
        """Return which of ``rows`` have a token with a label, bool ``[N]``."""
        return self._counts(rows) > 0

    def classes(self, rows: RowIndices) -> NDArray[np.int64]:
        """Return the indices of the model's labels that a token of ``rows`` has, ascending."""
        found = np.unique(self.targets(rows))
        return found[found >= 0]

    def _counts(self, rows: RowIndices) -> NDArray[np.int64]:
        """Count the tokens with a label in each of ``rows``, int64 ``[N]``."""
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.labels != IGNORED)])
        found: NDArray[np.int64] = before[self.offsets[rows + 1]] - before[self.offsets[rows]]
        return found

    def targets(self, rows: RowIndices, tokens: int = 0) -> NDArray[Any]:
        """Return the labels of the tokens of ``rows``, int64 ``[N, tokens]``; :data:`IGNORED` for padding too.

        ``tokens`` of 0 means the length of the longest of ``rows``.
        """
        positions = np.arange(tokens or int(self.lengths[rows].max(initial=0)))
        is_text = positions < self.lengths[rows, None]
        labels = np.full(is_text.shape, IGNORED, dtype=np.int64)
        labels[is_text] = self.labels[(self.offsets[rows, None] + positions)[is_text]]
        return labels

    @classmethod
    def of_targets(cls, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Self:
        """Return the dataset of these rows whose labels :meth:`targets` has given for all of them together."""
        is_text = np.arange(targets.shape[1]) < np.diff(offsets)[:, None]
        return cls(token_ids, offsets, targets[is_text].astype(np.int32))
