"""Sentences as token ids, and which of these are the first of a word and have its tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from fwdllm_client.data.dataset import IGNORED, Dataset, TokenDataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.data.tokens import batches, offsets_of, open_tokenizer
from fwdllm_client.tasks.classification.tokens import class_index
from fwdllm_client.tasks.token_classification.rows import TaggedSource
from fwdllm_common.manifest import Manifest

_log = structlog.get_logger()
_NONE = -1


@dataclass(frozen=True)
class TaggedDataset(TokenDataset):
    """Tokenised sentences with the tags of words at their first tokens, :data:`IGNORED` elsewhere.

    ``words`` int32 ``[tokens]``: at the first token of a word its index in the row, -1 elsewhere; ``word_counts`` are
    how many words each row has. Both are absent in a known-answer test.
    """

    words: NDArray[np.int32] | None = None
    word_counts: Sequence[int] = ()

    def weights(self, rows: RowIndices) -> NDArray[np.float64]:
        """Return the number of tagged words in each of ``rows``, float64 ``[N]``: a mean is over words."""
        return self._counts(rows).astype(np.float64)


class Words(NamedTuple):
    """How many words a row has, and the position and the word of each token that is the first of one."""

    number: int
    first_tokens: Sequence[tuple[int, int]]


def words_of(dataset: Dataset, row: int) -> Words:
    """Return the words of a row of a dataset of sentences."""
    assert isinstance(dataset, TaggedDataset), "datasets of the task are made here"
    assert dataset.words is not None, "a known-answer test has no words"
    words = dataset.words[dataset.offsets[row] : dataset.offsets[row + 1]]
    (positions,) = np.nonzero(words != _NONE)
    return Words(dataset.word_counts[row], list(zip(positions.tolist(), words[positions].tolist(), strict=True)))


def tokenise(source: TaggedSource, tokenizer_file: Path, manifest: Manifest) -> TaggedDataset:
    """Tokenise the rows of ``source`` word by word; log how many have lost words to truncation.

    :raises BadInputError: the file or a row is wrong, or a tag is not one of the model's.
    """
    tokenizer = open_tokenizer(tokenizer_file)
    before = _before_words(tokenizer)
    tokenizer.enable_truncation(manifest.max_tokens)
    class_of = {label: index for index, label in enumerate(manifest.labels)}
    ids: list[Sequence[int]] = []
    words: list[Sequence[int]] = []
    labels: list[Sequence[int]] = []
    counts: list[int] = []
    cut = 0
    for rows in batches(source.rows()):
        encoded = tokenizer.encode_batch([[before + word for word in row.words] for row in rows], is_pretokenized=True)
        for row, encoding in zip(rows, encoded, strict=True):
            tags = [class_index(source.place(row.line), tag, class_of) for tag in row.tags]
            firsts = _first_tokens(encoding) or [_NONE]
            ids.append(encoding.ids or [manifest.pad_token_id])
            words.append(firsts)
            labels.append([tags[word] if tags and word != _NONE else IGNORED for word in firsts])
            counts.append(len(row.words))
            cut += bool(encoding.overflowing)
    if cut:
        _log.info("words that truncation cuts off are not learnt", rows=cut, max_tokens=manifest.max_tokens)
    return TaggedDataset(
        np.fromiter(chain.from_iterable(ids), dtype=np.int32),
        offsets_of(np.array([len(row) for row in ids], dtype=np.int64)),
        np.fromiter(chain.from_iterable(labels), dtype=np.int32),
        np.fromiter(chain.from_iterable(words), dtype=np.int32),
        counts,
    )


def _first_tokens(encoding: Encoding) -> list[int]:
    """Return for each token the word that it is the first of, -1 if it is none's."""
    words = encoding.word_ids
    return [_NONE if word is None or (at and words[at - 1] == word) else word for at, word in enumerate(words)]


def _before_words(tokenizer: Tokenizer) -> str:
    """Return what a word begins with to become the tokens that it has within a text.

    Tokenizers that mark the space before a word take a word alone as one at the beginning of a text.
    """
    in_text = tokenizer.encode("a b", add_special_tokens=False).ids
    alone = tokenizer.encode(["a", "b"], is_pretokenized=True, add_special_tokens=False).ids
    return "" if in_text[-1:] == alone[-1:] else " "
