"""The split of the local rows into training and validation rows, the same at every start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data.validation import validation_count

RowIndices = NDArray[np.int64]


def split(row_count: int, validation_fraction: float) -> tuple[RowIndices, RowIndices]:
    """Return training and validation rows, int64, each ascending, together all of ``0 … row_count - 1``.

    The validation rows are those with the smallest hash of their index, :func:`validation_count` of them.

    :raises BadInputError: the fraction is not in [0, 1).
    """
    count = validation_count(row_count, validation_fraction)
    order = np.argsort(_hash(np.arange(row_count, dtype=np.uint64)), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of SplitMix64 (Steele et al., 2014) to each value."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
