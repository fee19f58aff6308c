"""Directions: which ±1 a seed means at which coordinate of θ (generator version 1).

Coordinate ``i`` of the direction of ``seed`` is +1 if bit ``i mod 64`` of word ``i div 64`` is set, else −1, where the
words are the output of Philox4x64-10 (Salmon et al., SC'11) with the 128-bit key ``(run_key, seed)`` and the counters
1, 2, 3, …, four words each. Integers only: the same bits on every machine, and any slice can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_WORD_BITS = 64
_WORDS_PER_COUNTER = 4


def direction_bits(run_key: int, seed: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Coordinates ``[start, stop)`` of a direction as bits, uint8 ``[stop - start]``: 1 for +1, 0 for −1.

    ``run_key`` and ``seed`` are unsigned 64-bit integers.
    """
    counter = start // (_WORD_BITS * _WORDS_PER_COUNTER)
    first = counter * _WORD_BITS * _WORDS_PER_COUNTER
    words = -(-(stop - first) // _WORD_BITS)
    # numpy increments the counter before the first block, hence "the counters 1, 2, 3, …" above.
    generator = np.random.Philox(key=np.array([run_key, seed], dtype=np.uint64), counter=counter)
    raw = np.asarray(generator.random_raw(words), dtype="<u8")
    bits = np.unpackbits(raw.view(np.uint8), bitorder="little")
    return bits[start - first : stop - first]


def direction(run_key: int, seed: int, start: int, stop: int) -> NDArray[np.float32]:
    """Coordinates ``[start, stop)`` of a direction v, float32 ``[stop - start]``, each +1 or −1; ‖v‖² is its length."""
    bits = direction_bits(run_key, seed, start, stop).astype(np.float32)
    return bits * np.float32(2) - np.float32(1)


def perturb(
    theta: NDArray[np.float32], run_key: int, seeds: NDArray[np.uint64], start: int, epsilon: float
) -> NDArray[np.float32]:
    """θ + εv for each seed: float32 ``[len(seeds), len(theta)]``.

    ``theta`` is the slice of the trainable vector that begins at coordinate ``start``.
    """
    copies = np.empty((len(seeds), len(theta)), dtype=np.float32)
    for row, seed in zip(copies, seeds, strict=True):
        np.multiply(direction(run_key, int(seed), start, start + len(theta)), np.float32(epsilon), out=row)
        row += theta
    return copies


def weighted_sum(
    run_key: int, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.int64]:
    """Σ_k c_k v_k over coordinates ``[start, stop)``, int64.

    Integer addition has no order: any split of the directions into batches or threads gives the same bits.
    The caller keeps Σ|c_k| below 2⁶²; see :mod:`fwdllm_common.fixed_point`.
    """
    # Σ c_k (2 b_k − 1) = 2 Σ c_k b_k − Σ c_k, so each direction is one masked addition.
    total = np.zeros(stop - start, dtype=np.int64)
    for bits, coefficient in zip(_bits(run_key, seeds, start, stop), coefficients, strict=True):
        np.add(total, coefficient, out=total, where=bits)
    total *= 2
    total -= coefficients.sum(dtype=np.int64)
    return total


def _bits(run_key: int, seeds: NDArray[np.uint64], start: int, stop: int) -> Iterator[NDArray[np.bool_]]:
    for seed in seeds:
        yield direction_bits(run_key, int(seed), start, stop).view(np.bool_)
