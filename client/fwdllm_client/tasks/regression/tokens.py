"""Texts, or pairs of texts, as token ids, with their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fwdllm_client.data.dataset import Dataset
from fwdllm_client.data.pairs import Text
from fwdllm_client.data.tokens import batches, tokenise
from fwdllm_client.tasks.regression.rows import ValueSource
from fwdllm_common.manifest import Manifest


def labelled(source: ValueSource, tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise the rows of ``source``; their labels are numbers, float32 ``[rows]``.

    :raises BadInputError: the file or a row is wrong.
    """
    numbers: list[float] = []

    def texts() -> Iterator[Sequence[Text]]:
        for rows in batches(source.rows()):
            numbers.extend(row.label for row in rows)
            yield [row.text for row in rows]

    tokens, offsets = tokenise(texts(), tokenizer_file, manifest)
    return Dataset(tokens, offsets, np.array(numbers, dtype=np.float32))


def of_texts(texts: Iterable[Text], tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise ``texts`` whose numbers nobody knows; these are NaN.

    :raises BadInputError: the tokenizer's file is damaged, or there is no text.
    """
    tokens, offsets = tokenise(batches(iter(texts)), tokenizer_file, manifest)
    return Dataset(tokens, offsets, np.full(len(offsets) - 1, np.nan, dtype=np.float32))
