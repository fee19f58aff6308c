"""Batches: the rows of a task, and their groups for runs of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_common.errors import BadInputError

_BUCKET_TOKENS = 8
_MIN_TOKENS = 2
# Directions use the counters 1, 2, 3, … of the same key; no direction reaches the batch's counter.
_BATCH_COUNTER = np.array([0, 0, 0, 1], dtype=np.uint64)


@dataclass(frozen=True)
class Group:
    """Rows that run together, padded to ``tokens`` tokens each."""

    rows: RowIndices
    tokens: int


@dataclass(frozen=True)
class Text:
    """A group's tokens: ``input_ids`` and ``attention_mask``, int64 ``[N, T]``."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


def sample_rows(run_key: int, first_seed: int, rows: RowIndices, batch_size: int) -> RowIndices:
    """Draw a task's batch: ``batch_size`` of ``rows`` without replacement, ascending; all of them if there are fewer.

    The choice depends only on the run, the task's first seed and the number of rows, on every machine.

    :raises BadInputError: there are no rows.
    """
    if len(rows) == 0:
        raise BadInputError("no rows to train on; add data or lower the validation fraction")
    if batch_size >= len(rows):
        return np.sort(rows)
    generator = np.random.Philox(key=np.array([run_key, first_seed], dtype=np.uint64), counter=_BATCH_COUNTER)
    order = np.argsort(generator.random_raw(len(rows)), kind="stable")
    return np.sort(rows[order[:batch_size]])


def distinct_rows(dataset: Dataset, rows: RowIndices) -> int:
    """Count the distinct texts among ``rows``."""
    bounds = dataset.offsets[rows].tolist(), dataset.offsets[rows + 1].tolist()
    return len({dataset.token_ids[start:end].tobytes() for start, end in zip(*bounds, strict=True)})


def same_rows(run_key: int, rows: RowIndices, batch_size: int) -> RowIndices:
    """Return the first ``batch_size`` of ``rows`` in an order that is the same through a run, ascending.

    A larger batch has all rows of a smaller one. The order depends only on the run and the number of rows.

    :raises BadInputError: there are no rows.
    """
    return sample_rows(run_key, 0, rows, batch_size)


def nested_size(size: int, rows: int, step: int) -> int:
    """Return the size of a batch of about ``size`` of the ``rows`` that begins with the same rows each time.

    Two sizes differ by ``step`` rows or more, so that no difference of two batches is of fewer rows.
    """
    below = min(size, rows - step) // step * step
    return rows if size >= rows or below < step else below


def padded_lengths(lengths: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """Return each row's padded length, int64 ``[rows]``: the next multiple of 8, at most ``max_tokens``."""
    buckets = -(-lengths // _BUCKET_TOKENS) * _BUCKET_TOKENS
    return np.maximum(np.minimum(buckets, max_tokens), _MIN_TOKENS)


def group_by_length(rows: RowIndices, padded: NDArray[np.int64], token_budget: int) -> Iterator[Group]:
    """Yield groups of rows of one padded length, shortest first, of at most ``token_budget`` tokens (or a single row).

    ``padded`` is the padded length of each of ``rows``.
    """
    for tokens in np.unique(padded):
        same = rows[padded == tokens]
        size = max(1, token_budget // int(tokens))
        for start in range(0, len(same), size):
            yield Group(same[start : start + size], int(tokens))


def group_by_doubling(rows: RowIndices, padded: NDArray[np.int64], token_budget: int) -> Iterator[Group]:
    """Yield groups of rows, shortest first, none padded to over twice its length nor above ``token_budget``.

    ``padded`` is the padded length of each of ``rows``; a single row may exceed the budget.
    """
    order = np.argsort(padded, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        longest = int(padded[order[end - 1]])
        if end < len(order):
            following = int(padded[order[end]])
            if following <= 2 * int(padded[order[start]]) and following * (end + 1 - start) <= token_budget:
                continue
        yield Group(rows[order[start:end]], longest)
        start = end


def text_of(dataset: Dataset, group: Group, pad_token_id: int) -> Text:
    """Return the tokens of a group, padded on the right."""
    positions = np.arange(group.tokens)
    is_text = positions < dataset.lengths[group.rows, None]
    ids = np.full(is_text.shape, pad_token_id, dtype=np.int64)
    ids[is_text] = dataset.token_ids[(dataset.offsets[group.rows, None] + positions)[is_text]]
    return Text(ids, is_text.astype(np.int64))
