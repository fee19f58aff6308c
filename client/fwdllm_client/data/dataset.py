"""The local examples as model inputs: token ids in a flat array, and class indices or spans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fwdllm_client.data.contents import Source
from fwdllm_client.data.passages import Passages, tokenise
from fwdllm_client.data.questions import QuestionSource
from fwdllm_client.data.source import DataSource, Row
from fwdllm_client.data.split import RowIndices
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest
from fwdllm_common.task import CLASSIFICATION

T = TypeVar("T")

# Texts are tokenised in full before truncation: batches of 256 rows keep 35 MB more memory and are no faster.
_ROWS_PER_BATCH = 32
_LABELS_SHOWN = 20


@dataclass(frozen=True)
class Dataset:
    """Tokenised rows: row i is ``token_ids[offsets[i]:offsets[i + 1]]`` with class ``labels[i]``.

    ``token_ids`` int32 ``[tokens]``, ``offsets`` int64 ``[rows + 1]``, ``labels`` int32 ``[rows]``. No row is empty.
    The labels of questions are the first and last token of the answer, ``[rows, 2]``, -1 where the answer is cut off;
    their ``passages`` map spans of tokens to text.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int32]
    passages: Passages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 ``[rows]``, at least 1."""
        return np.diff(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over tokens and labels, which identifies the data."""
        digest = hashlib.sha256()
        for array, kind in ((self.offsets, "<i8"), (self.token_ids, "<i4"), (self.labels, "<i4")):
            digest.update(np.ascontiguousarray(array, dtype=kind).data)
        return digest.hexdigest()

    def learnable(self, rows: RowIndices) -> NDArray[np.bool_]:
        """Return which of ``rows`` have a target, bool ``[N]``: all except questions whose answer is cut off."""
        labels = self.labels[rows]
        found: NDArray[np.bool_] = (labels if labels.ndim == 1 else labels[:, 0]) >= 0
        return found

    def targets(self, rows: RowIndices) -> NDArray[np.int64]:
        """Return the labels of ``rows`` for the model, int64 ``[N]`` or ``[N, 2]``; 0 where there is no target."""
        return np.maximum(self.labels[rows], 0).astype(np.int64)

    @classmethod
    def load(cls, source: Source, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows of ``source``, each inside the model's prompt and truncated to its ``max_tokens``.

        A text without any token becomes a single padding token.

        :raises BadInputError: the file or a row is wrong, a label is not one of the model's, all answers are cut off,
            or the rows are for another task.
        """
        if isinstance(source, QuestionSource) != (manifest.task != CLASSIFICATION):
            raise BadInputError(
                f"{source.path}: the model's task is {manifest.task}, these rows are for another; choose it with --task"
            )
        if isinstance(source, QuestionSource):
            found = tokenise(source, _plain_tokenizer(tokenizer_file), manifest)
            return cls(found.token_ids, _offsets(found.lengths), found.spans, found.passages)
        class_of = {label: index for index, label in enumerate(manifest.labels)}
        labels: list[NDArray[np.int32]] = []

        def batches() -> Iterator[Sequence[str]]:
            for rows in _batches(source.rows()):
                labels.append(np.array([_class_index(source, row, class_of) for row in rows], dtype=np.int32))
                yield [row.text for row in rows]

        tokens, offsets = _tokenised(batches(), tokenizer_file, manifest)
        return cls(tokens, offsets, np.concatenate(labels))

    @classmethod
    def of_texts(cls, texts: Iterable[str], tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise ``texts`` whose labels nobody knows, for a model that classifies; these are -1.

        :raises BadInputError: the model is for another task, the tokenizer's file is damaged, or there is no text.
        """
        if manifest.task != CLASSIFICATION:
            raise BadInputError(f"the model's task is {manifest.task}, a text alone is for another")
        tokens, offsets = _tokenised(_batches(iter(texts)), tokenizer_file, manifest)
        return cls(tokens, offsets, np.full(len(offsets) - 1, -1, dtype=np.int32))


def _tokenised(
    batches: Iterable[Sequence[str]], tokenizer_file: Path, manifest: Manifest
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids and offsets of texts; one without any token becomes a single padding token."""
    tokenizer = _tokenizer(tokenizer_file, manifest)
    tokens: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for texts in batches:
        ids = [row or [manifest.pad_token_id] for row in _token_ids(tokenizer, texts, manifest)]
        lengths.append(np.array([len(row) for row in ids], dtype=np.int64))
        tokens.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths[-1].sum())))
    if not tokens:
        raise BadInputError("there is no text")
    return np.concatenate(tokens), _offsets(np.concatenate(lengths))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def _tokenizer(file: Path, manifest: Manifest) -> Tokenizer:
    tokenizer = _plain_tokenizer(file)
    if manifest.prompt is None:
        tokenizer.enable_truncation(manifest.max_tokens)
    return tokenizer


def _plain_tokenizer(file: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers package raises plain Exception
        raise BadInputError(f"{file}: not a tokenizer file ({error}); download the model again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str], manifest: Manifest) -> list[Sequence[int]]:
    prompt = manifest.prompt
    if prompt is None:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    encoded = tokenizer.encode_batch([prompt.apply(text) for text in texts])
    return [prompt.cut(encoding, text, manifest.max_tokens) for encoding, text in zip(encoded, texts, strict=True)]


def _batches(rows: Iterator[T]) -> Iterator[Sequence[T]]:
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        yield batch


def _class_index(source: DataSource, row: Row, class_of: dict[str, int]) -> int:
    if row.label not in class_of:
        known = ", ".join(map(repr, islice(class_of, _LABELS_SHOWN)))
        more = f" and {len(class_of) - _LABELS_SHOWN} more" if len(class_of) > _LABELS_SHOWN else ""
        raise BadInputError(
            f"{source.place(row.line)}: label {row.label!r} is not one of the model's ({known}{more}); "
            "correct the row or choose the right label column"
        )
    return class_of[row.label]
