"""Orthogonal directions: the rows of randomised Hadamard matrices (generator version 2).

A *frame* is the Sylvester-Hadamard matrix H of order n, a power of two above the d coordinates of its block, with its
rows in a random order and its columns multiplied by random signs. The seeds of a frame are n neighbours of which the
first is a multiple of n. With F this first seed, coordinate j of the direction of seed F + i is

    s_j · H[r_i, j + 1]     H[r, c] = (−1)^(number of bits set in r & c)

* the sign s_j is coordinate j of the Rademacher direction of the seed F (:mod:`fwdllm_common.directions`);
* r is the order in which a stable sort puts the words n, n + 1, …, 2n − 1 of that same direction's stream.

Over a whole frame Σ v vᵀ = n · I, so that all n scalars together give the gradient itself; column 0, which is constant,
is left out, so that what all scalars have in common cancels. Each direction alone is of independent signs, as a
Rademacher direction is. Integers only, and sums take n log n additions (the fast Walsh-Hadamard transform).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions, direction_bits, stream_words
from fwdllm_common.errors import BadInputError

MAX_ORDER = 1 << 20
"""Largest frame: the seeds of a block in a round are 2²⁴."""
_TOGETHER = 1 << 16
"""Floats of the perturbed copies that are made at once."""


def order_for(size: int) -> int:
    """Return the order n of the frames of a block of ``size`` coordinates: the least power of two above it.

    :raises BadInputError: it would be above :data:`MAX_ORDER`.
    """
    order = 1 << size.bit_length()
    if order > MAX_ORDER:
        raise BadInputError(f"orthogonal directions have at most {MAX_ORDER - 1} coordinates, not {size}")
    return order


@dataclass(frozen=True)
class OrthogonalDirections:
    """The directions of one block of a run, which begins at coordinate ``block_start`` of θ and has ``size``.

    Has what :class:`fwdllm_common.directions.Directions` has.

    :raises BadInputError: the block is too large.
    """

    run_key: int
    block_start: int
    size: int

    def __post_init__(self) -> None:
        order_for(self.size)

    @property
    def unit(self) -> int:
        """Coordinates are whole."""
        return 1

    @property
    def kurtosis(self) -> float:
        """E v⁴ of a coordinate."""
        return 1.0

    @property
    def order(self) -> int:
        """Directions of a frame, n."""
        return order_for(self.size)

    def integers(self, seed: int, start: int, stop: int) -> NDArray[np.int8]:
        """Coordinates ``[start, stop)`` of θ in the direction of ``seed``, int8 of +1 and −1."""
        rows, signs = _frame(self.run_key, self.order, seed // self.order)
        first, last = self._columns(start, stop)
        row = _hadamard_rows(self.order, rows[[seed % self.order]])[0, first:last]
        integers: NDArray[np.int8] = row.astype(np.int8) * signs[first:last]
        return integers

    def vector(self, seed: int, start: int, stop: int) -> NDArray[np.float32]:
        """Return the same as float32."""
        return self.integers(seed, start, stop).astype(np.float32)

    def perturb(
        self, theta: NDArray[np.float32], seeds: NDArray[np.uint64], start: int, epsilon: float
    ) -> NDArray[np.float32]:
        """θ + εv for each seed: float32 ``[len(seeds), len(theta)]``; see :meth:`Directions.perturb`."""
        copies = np.empty((len(seeds), len(theta)), dtype=np.float32)
        first, last = self._columns(start, start + len(theta))
        numbers, within = np.divmod(seeds, np.uint64(self.order))
        for number in np.unique(numbers):
            members = np.flatnonzero(numbers == number)
            rows, signs = _frame(self.run_key, self.order, int(number))
            steps = np.float32(epsilon) * signs.astype(np.float32)
            # A few at a time, so that they stay in the processor's cache.
            for some in np.array_split(members, -(-len(members) * self.order // _TOGETHER)):
                moved = _hadamard_rows(self.order, rows[within[some]])
                moved *= steps  # by a sign, which rounds nothing: a coordinate is rounded once, by the sum
                span = slice(int(some[0]), int(some[-1]) + 1)
                if len(some) == span.stop - span.start:
                    np.add(moved[:, first:last], theta, out=copies[span])
                else:
                    copies[some] = moved[:, first:last] + theta
        return copies

    def weighted_sum(
        self, seeds: NDArray[np.uint64], coefficients: NDArray[np.int64], start: int, stop: int
    ) -> NDArray[np.int64]:
        """Σ_k c_k v_k over coordinates ``[start, stop)``, int64; see :meth:`Directions.weighted_sum`."""
        if len(seeds) != len(coefficients):
            raise ValueError(f"{len(seeds)} seeds and {len(coefficients)} coefficients")
        first, last = self._columns(start, stop)
        total = np.zeros(stop - start, dtype=np.int64)
        numbers, within = np.divmod(seeds, np.uint64(self.order))
        for number in np.unique(numbers):
            members = numbers == number
            rows, signs = _frame(self.run_key, self.order, int(number))
            spectrum = np.zeros(self.order, dtype=np.int64)
            np.add.at(spectrum, rows[within[members]], coefficients[members])
            _transform(spectrum)
            total += spectrum[first:last] * signs[first:last]
        return total

    def products(
        self, seeds: NDArray[np.uint64], line: NDArray[np.float32] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """v_k · ``line`` for each seed, float64 ``[len(seeds)]``; ``line`` is float32 or float64 ``[size]``."""
        found = np.empty(len(seeds), dtype=np.float64)
        first, last = self._columns(self.block_start, self.block_start + self.size)
        numbers, within = np.divmod(seeds, np.uint64(self.order))
        for number in np.unique(numbers):
            members = numbers == number
            rows, signs = _frame(self.run_key, self.order, int(number))
            spectrum = np.zeros(self.order, dtype=np.float64)
            spectrum[first:last] = line * signs[first:last]
            _transform(spectrum)
            found[members] = spectrum[rows[within[members]]]
        return found

    def _columns(self, start: int, stop: int) -> tuple[int, int]:
        """Columns of the matrix for coordinates ``[start, stop)`` of θ."""
        first, last = start - self.block_start, stop - self.block_start
        if not 0 <= first <= last <= self.size:
            raise ValueError(f"coordinates {start} to {stop} are not in the block")
        return first + 1, last + 1


AnyDirections: TypeAlias = Directions | OrthogonalDirections
"""Those of a block: independent ones or orthogonal ones."""


@lru_cache(maxsize=8)  # a device measures one frame after the other
def _frame(run_key: int, order: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Rows ``[n]`` in their random order and the signs ``[n]`` of the columns, that of column 0 unused."""
    seed = number * order
    rows = np.argsort(stream_words(run_key, seed, order, 2 * order), kind="stable")
    signs = np.ones(order, dtype=np.int8)
    signs[1:] = direction_bits(run_key, seed, 0, order - 1).view(np.int8) * np.int8(2) - np.int8(1)
    rows.flags.writeable = signs.flags.writeable = False
    return rows, signs


@lru_cache(maxsize=16)
def _sylvester(order: int) -> NDArray[np.float32]:
    """Return the Hadamard matrix itself, float32 ``[order, order]``; for small orders."""
    matrix = np.ones((1, 1), dtype=np.float32)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix.flags.writeable = False
    return matrix


def _hadamard_rows(order: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of the Hadamard matrix of ``order``, float32 ``[len(rows), order]``.

    It is the Kronecker product of two small ones, and so is each row.
    """
    low_bits = (order.bit_length() - 1) // 2
    low, high = _sylvester(1 << low_bits), _sylvester(order >> low_bits)
    left, right = high[rows >> low_bits], low[rows & ((1 << low_bits) - 1)]
    found: NDArray[np.float32] = (left[:, :, None] * right[:, None, :]).reshape(len(rows), order)
    return found


def _transform(values: NDArray[np.int64] | NDArray[np.float64]) -> None:
    """Multiply by the Hadamard matrix in place, ``[n]``: the fast Walsh-Hadamard transform."""
    half = 1
    while half < len(values):
        pairs = values.reshape(-1, 2, half)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
