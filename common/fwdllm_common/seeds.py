"""Ranges of seeds. ``range(first, end)`` is their one form, from a round's plan over the wire to the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2


class RangeMessage(Protocol):
    """A message of consecutive seeds: ``SeedRange`` of an assignment, ``SeedSpan`` of the ledger."""

    first: int
    count: int


def ranges_of(seeds: Iterable[int] | NDArray[np.uint64]) -> tuple[range, ...]:
    """Return the seeds, in their order, as the fewest ranges."""
    found = seeds if isinstance(seeds, np.ndarray) else np.array(list(seeds), dtype=np.uint64)
    if len(found) == 0:
        return ()
    starts = (np.flatnonzero(np.diff(found.view(np.int64)) != 1) + 1).tolist()
    return tuple(_range(int(found[start]), end - start) for start, end in pairwise([0, *starts, len(found)]))


def seeds_in(ranges: Iterable[range]) -> list[int]:
    """Return every seed of the ranges, in their order."""
    return [seed for each in ranges for seed in each]


def array_of(ranges: Iterable[range]) -> NDArray[np.uint64]:
    """Return every seed of the ranges, in their order, uint64 ``[K]``."""
    arrays = (np.arange(len(each), dtype=np.uint64) + np.uint64(each.start) for each in ranges)
    return np.concatenate([np.empty(0, dtype=np.uint64), *arrays])


def total(ranges: Iterable[range]) -> int:
    """Return the number of seeds in the ranges."""
    return sum(map(len, ranges))


def to_messages(ranges: Iterable[range]) -> list[device_pb2.SeedRange]:
    """Return the ranges as an assignment has them."""
    return [device_pb2.SeedRange(first=each.start, count=len(each)) for each in ranges]


def from_messages(messages: Iterable[RangeMessage]) -> tuple[range, ...]:
    """Return the ranges of an assignment's or the ledger's messages."""
    return tuple(_range(message.first, message.count) for message in messages)


def _range(first: int, count: int) -> range:
    return range(first, first + count)
