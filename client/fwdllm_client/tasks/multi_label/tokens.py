"""Texts as token ids, with a 1 or 0 for each label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fwdllm_client.data.dataset import Dataset
from fwdllm_client.data.pairs import Text
from fwdllm_client.data.tokens import batches, tokenise
from fwdllm_client.tasks.classification.tokens import class_index
from fwdllm_client.tasks.multi_label.rows import LabelsSource
from fwdllm_common.manifest import Manifest


def labelled(source: LabelsSource, tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise the rows of ``source``; their labels are 1 and 0, float32 ``[rows, labels]``.

    :raises BadInputError: the file or a row is wrong, or a label is not one of the model's.
    """
    class_of = {label: index for index, label in enumerate(manifest.labels)}
    chosen: list[list[int]] = []

    def texts() -> Iterator[Sequence[Text]]:
        for rows in batches(source.rows()):
            for row in rows:
                place = source.place(row.line)
                chosen.append([class_index(place, label, class_of) for label in row.label])
            yield [row.text for row in rows]

    tokens, offsets = tokenise(texts(), tokenizer_file, manifest)
    labels = np.zeros((len(chosen), len(class_of)), dtype=np.float32)
    for row, indices in zip(labels, chosen, strict=True):
        row[indices] = 1
    return Dataset(tokens, offsets, labels)


def of_texts(texts: Iterable[Text], tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise ``texts`` whose labels nobody knows; these are NaN.

    :raises BadInputError: the tokenizer's file is damaged, or there is no text.
    """
    tokens, offsets = tokenise(batches(iter(texts)), tokenizer_file, manifest)
    return Dataset(tokens, offsets, np.full((len(offsets) - 1, len(manifest.labels)), np.nan, dtype=np.float32))
