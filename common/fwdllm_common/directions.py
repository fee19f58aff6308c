"""Directions: which vector a seed means (generator version 1).

The words of a direction are the output of Philox4x64-10 (Salmon et al., SC'11) with the 128-bit key ``(run_key, seed)``
and the counters 1, 2, 3, …, four words each. Coordinate ``i`` is

* ``rademacher``: +1 if bit ``i mod 64`` of word ``i div 64`` is set, else −1;
* ``gaussian``: (the number of bits set in word ``i``, minus 32) / 4, a binomial of variance 1 that is normal enough
  (kurtosis 2.97) and, unlike a library's normals, exact. For comparison with the paper.

Integers only: the same bits on every machine, and any slice can be made alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Distribution: TypeAlias = Literal["rademacher", "gaussian"]

_WORD_BITS = 64
_WORDS_PER_COUNTER = 4
_SLICE = 1 << 16
_SUM_SLICE = 1 << 19
_BYTE_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)
"""The bits of each byte, int64 ``[256, 8]``."""
_UNITS: dict[Distribution, int] = {"rademacher": 1, "gaussian": 4}
_KURTOSES: dict[Distribution, float] = {"rademacher": 1.0, "gaussian": 3 - 2 / _WORD_BITS}


@dataclass(frozen=True)
class Directions:
    """The directions of one run: ``run_key`` and the seeds below are unsigned 64-bit integers."""

    run_key: int
    distribution: Distribution = "rademacher"

    @property
    def unit(self) -> int:
        """Coordinates are whole multiples of 1 / ``unit``."""
        return _UNITS[self.distribution]

    @property
    def kurtosis(self) -> float:
        """E v⁴ of a coordinate, whose variance is 1."""
        return _KURTOSES[self.distribution]

    def integers(self, seed: int, start: int, stop: int) -> NDArray[np.int8]:
        """Coordinates ``[start, stop)`` of a direction in multiples of 1 / ``unit``, int8 ``[stop - start]``."""
        if self.distribution == "rademacher":
            bits = direction_bits(self.run_key, seed, start, stop).view(np.int8)
            return bits * np.int8(2) - np.int8(1)
        return _bits_set(stream_words(self.run_key, seed, start, stop)).view(np.int8) - np.int8(_WORD_BITS // 2)

    def vector(self, seed: int, start: int, stop: int) -> NDArray[np.float32]:
        """Coordinates ``[start, stop)`` of a direction v, float32 ``[stop - start]``; E‖v‖² is its length.

        Rademacher directions have exactly that norm.
        """
        return self.integers(seed, start, stop).astype(np.float32) / np.float32(self.unit)

    def perturb(
        self, theta: NDArray[np.float32], seeds: NDArray[np.uint64], start: int, epsilon: float
    ) -> NDArray[np.float32]:
        """θ + εv for each seed: float32 ``[len(seeds), len(theta)]``.

        ``theta`` is the slice of the trainable vector that begins at coordinate ``start``.
        """
        copies = np.empty((len(seeds), len(theta)), dtype=np.float32)
        for row, seed in zip(copies, seeds, strict=True):
            # Slice by slice: a direction whole takes several times the memory of θ on its way.
            for first in range(0, len(theta), _SLICE):
                part = slice(first, min(first + _SLICE, len(theta)))
                v = self.vector(int(seed), start + part.start, start + part.stop)
                np.multiply(v, np.float32(epsilon), out=row[part])
                row[part] += theta[part]
        return copies

    def weighted_sum(
        self, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], start: int, stop: int
    ) -> NDArray[np.int64]:
        """Σ_k c_k v_k over coordinates ``[start, stop)`` in multiples of 1 / ``unit``, int64.

        Integer addition has no order: any split of the directions into batches or threads gives the same bits.
        The caller keeps the sum below 2⁶²; see :mod:`fwdllm_common.fixed_point`.
        """
        if len(seeds) != len(coefficients):
            raise ValueError(f"{len(seeds)} seeds and {len(coefficients)} coefficients")
        total = np.zeros(stop - start, dtype=np.int64)
        if self.distribution == "gaussian":
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                # int64 before the product: numpy 1.26 would choose the type by the coefficient's value and overflow.
                total += coefficient * self.integers(int(seed), start, stop).astype(np.int64)
            return total
        # Σ c_k (2 b_k − 1) = 2 Σ c_k b_k − Σ c_k, so each direction is its bits.
        for first in range(start, stop, _SUM_SLICE):
            last = min(first + _SUM_SLICE, stop)
            total[first - start : last - start] = _sum_over_bits(self.run_key, seeds, coefficients, first, last)
        total *= 2
        total -= coefficients.sum(dtype=np.int64)
        return total


def step_length(weights: NDArray[np.float32], least: float, relative: float) -> float:
    """Return ε for a block with these weights, float32 ``[block size]``: ``relative`` times their root mean square.

    It is at least ``least``.
    """
    return max(least, relative * float(np.sqrt(np.mean(np.square(weights, dtype=np.float64)))))


def direction_bits(run_key: int, seed: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Coordinates ``[start, stop)`` of a Rademacher direction as bits, uint8 ``[stop - start]``: 1 for +1, 0 for −1."""
    first = start // _WORD_BITS
    words = stream_words(run_key, seed, first, -(-stop // _WORD_BITS))
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return bits[start - first * _WORD_BITS : stop - first * _WORD_BITS]


def _sum_over_bits(
    run_key: int, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.int64]:
    """Σ_k c_k b_k over the bits of Rademacher directions, int64 ``[stop - start]``.

    Eight directions at a time: their bits of a coordinate make a byte, and a table has the sum for each of the 256.
    """
    first, last = start // _WORD_BITS, -(-stop // _WORD_BITS)
    total = np.zeros((8, 8 * (last - first)), dtype=np.int64)  # coordinate 8 i + j is at [j, i]
    part = np.empty_like(total[0])
    for group in range(0, len(seeds), 8):
        some = slice(group, group + 8)
        rows = np.zeros((8, last - first), dtype="<u8")
        for row, seed in zip(rows, seeds[some], strict=False):
            row[:] = stream_words(run_key, int(seed), first, last)
        _transpose_bits(rows)
        sums = _BYTE_BITS[:, : len(coefficients[some])] @ coefficients[some]
        for line, byte in zip(total, rows.view(np.uint8), strict=True):
            np.take(sums, byte, out=part, mode="clip")  # with "raise", numpy would copy `out`
            line += part
    return total.T.reshape(-1)[start - first * _WORD_BITS : stop - first * _WORD_BITS]


def _transpose_bits(rows: NDArray[np.uint64]) -> None:
    """Swap bit j of the bytes of row k with bit k of those of row j, in ``[8, …]`` words (Hacker's Delight, 7-3)."""
    for shift, mask in ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555)):
        pairs = rows.reshape(4 // shift, 2, shift, -1)
        low, high = pairs[:, 0], pairs[:, 1]
        swap = ((low >> np.uint64(shift)) ^ high) & np.uint64(mask)
        high ^= swap
        low ^= swap << np.uint64(shift)


class _Generator(threading.local):
    """A thread's own Philox, set to one direction after the other: to make a new one takes several times as long."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._state = self._philox.state

    def words(self, run_key: int, seed: int, counter: int, count: int) -> NDArray[np.uint64]:
        """Return the first ``count`` words after ``counter``."""
        key = self._state["state"]["key"]
        key[0], key[1] = run_key, seed
        # numpy increments the counter before the first block, hence "the counters 1, 2, 3, …" above.
        self._state["state"]["counter"][0] = counter
        self._philox.state = self._state  # which has no words left over from a block before
        return self._philox.random_raw(count)


_generator = _Generator()


def stream_words(run_key: int, seed: int, start: int, stop: int) -> NDArray[np.uint64]:
    """Words ``[start, stop)`` of a seed's stream, little-endian."""
    counter = start // _WORDS_PER_COUNTER
    first = counter * _WORDS_PER_COUNTER
    return np.asarray(_generator.words(run_key, seed, counter, stop - first)[start - first :], dtype="<u8")


def _bits_set(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits of each word are set, uint8; numpy has this only from 2.0 on."""
    one, two, four = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    pairs = words - ((words >> np.uint64(1)) & one)
    nibbles = (pairs & two) + ((pairs >> np.uint64(2)) & two)
    octets = (nibbles + (nibbles >> np.uint64(4))) & four
    counts: NDArray[np.uint8] = octets.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.uint8)
    return counts
