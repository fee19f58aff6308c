"""Texts with labels as token ids and class indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data.dataset import Dataset
from fwdllm_client.data.pairs import Text
from fwdllm_client.data.tokens import batches, tokenise
from fwdllm_client.tasks.classification.rows import DataSource
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

_LABELS_SHOWN = 20


def labelled(source: DataSource, tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise the rows of ``source``; their labels are class indices, int32 ``[rows]``.

    :raises BadInputError: the file or a row is wrong, or a label is not one of the model's.
    """
    class_of = {label: index for index, label in enumerate(manifest.labels)}
    labels: list[NDArray[np.int32]] = []

    def texts() -> Iterator[Sequence[Text]]:
        for rows in batches(source.rows()):
            labels.append(
                np.array([class_index(source.place(row.line), row.label, class_of) for row in rows], dtype=np.int32)
            )
            yield [row.text for row in rows]

    tokens, offsets = tokenise(texts(), tokenizer_file, manifest)
    return Dataset(tokens, offsets, np.concatenate(labels)).weighted(manifest.class_weights)


def of_texts(texts: Iterable[Text], tokenizer_file: Path, manifest: Manifest) -> Dataset:
    """Tokenise ``texts``, or pairs of texts, whose labels nobody knows; these are -1.

    :raises BadInputError: the tokenizer's file is damaged, or there is no text.
    """
    tokens, offsets = tokenise(batches(iter(texts)), tokenizer_file, manifest)
    return Dataset(tokens, offsets, np.full(len(offsets) - 1, -1, dtype=np.int32))


def class_index(place: str, label: str, class_of: Mapping[str, int]) -> int:
    """Return the index of a label.

    :raises BadInputError: it is not one of the model's.
    """
    if label not in class_of:
        known = ", ".join(map(repr, islice(class_of, _LABELS_SHOWN)))
        more = f" and {len(class_of) - _LABELS_SHOWN} more" if len(class_of) > _LABELS_SHOWN else ""
        raise BadInputError(
            f"{place}: label {label!r} is not one of the model's ({known}{more}); "
            "correct the row or choose the right label column"
        )
    return class_of[label]
