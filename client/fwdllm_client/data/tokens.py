"""Tokenising texts a batch at a time, with the tokenizer of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fwdllm_client.data.pairs import Text
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

T = TypeVar("T")

# Texts are tokenised in full before truncation: batches of 256 rows keep 35 MB more memory and are no faster.
_ROWS_PER_BATCH = 32


def open_tokenizer(file: Path) -> Tokenizer:
    """Open the tokenizer in ``file``, without padding and truncation.

    :raises BadInputError: the file is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers package raises plain Exception
        raise BadInputError(f"{file}: not a tokenizer file ({error}); download the model again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenise(
    batches: Iterable[Sequence[Text]], tokenizer_file: Path, manifest: Manifest
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return token ids, int32 ``[tokens]``, and offsets, int64 ``[rows + 1]``, of texts inside the model's prompt.

    Of pairs of texts that are too long the longer text is cut, as Hugging Face's tokenizers do.

    A text without any token becomes a single padding token.

    :raises BadInputError: the tokenizer's file is damaged, or there is no text.
    """
    tokenizer = open_tokenizer(tokenizer_file)
    if manifest.prompt is None:
        tokenizer.enable_truncation(manifest.max_tokens)
    tokens: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for texts in batches:
        ids = [row or [manifest.pad_token_id] for row in _token_ids(tokenizer, texts, manifest)]
        lengths.append(np.array([len(row) for row in ids], dtype=np.int64))
        tokens.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths[-1].sum())))
    if not tokens:
        raise BadInputError("there is no text")
    return np.concatenate(tokens), offsets_of(np.concatenate(lengths))


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where rows of these lengths begin and the last one ends, int64 ``[rows + 1]``."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def batches(rows: Iterator[T]) -> Iterator[Sequence[T]]:
    """Yield ``rows`` in batches for the tokenizer."""
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        yield batch


def _token_ids(tokenizer: Tokenizer, texts: Sequence[Text], manifest: Manifest) -> list[Sequence[int]]:
    prompt = manifest.prompt
    if prompt is None:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    single = [text if isinstance(text, str) else " ".join(text) for text in texts]
    encoded = tokenizer.encode_batch([prompt.apply(text) for text in single])
    return [prompt.cut(encoding, text, manifest.max_tokens) for encoding, text in zip(encoded, single, strict=True)]
