"""Divide the rows of one file among devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data.split import RowIndices

Shards = list[RowIndices]
"""For each device the indices of its rows, int64, in random order unless stated otherwise."""


def iid(rows: int, devices: int, generator: np.random.Generator) -> Shards:
    """Divide all rows at random into shards of equal size."""
    return list(np.array_split(generator.permutation(rows), devices))


def dirichlet(labels: NDArray[np.int32], devices: int, alpha: float, generator: np.random.Generator) -> Shards:
    """Divide the rows into equal shards whose mixtures of labels are drawn from Dirichlet(``alpha``) (Hsu et al. 2019).

    Every row is in one shard. When the rows of a label are used up, the mixture is renormalised over the other labels.

    :param labels: the label of each row, int32 ``[rows]``.
    """
    order = generator.permutation(len(labels))
    pools = [order[labels[order] == label] for label in np.unique(labels)]
    sizes = np.array([len(pool) for pool in pools])
    used = np.zeros(len(pools), dtype=np.int64)
    shards = []
    for wanted in (len(part) for part in np.array_split(order, devices)):
        mixture = generator.dirichlet(np.full(len(pools), alpha))
        parts: list[RowIndices] = []
        while wanted > 0:
            weights = np.where(used < sizes, mixture + 1e-12, 0)
            counts = np.minimum(generator.multinomial(wanted, weights / weights.sum()), sizes - used)
            parts += [pool[start : start + count] for pool, start, count in zip(pools, used, counts, strict=True)]
            used += counts
            wanted -= int(counts.sum())
        shards.append(generator.permutation(np.concatenate(parts)))
    return shards


def by_user(users: Sequence[str], devices: int) -> Shards:
    """Return one shard for each of the ``devices`` users with the most rows. Rows keep the order of the file."""
    names: NDArray[Any] = np.array(users)
    _, owners, counts = np.unique(names, return_inverse=True, return_counts=True)
    shards = np.split(np.argsort(owners, kind="stable"), np.cumsum(counts)[:-1])
    return [shards[index] for index in np.argsort(-counts, kind="stable")[:devices]]
