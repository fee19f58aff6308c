"""Sixteen bits a number: half precision on the wire, a shared shift in the ledger (docs/algorithm.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.fixed_point import SCALE, UnusableScalarError

MOST = (1 << 15) - 1
"""The largest mantissa."""
MAX_SHIFT = 48


class Packed(NamedTuple):
    """Integers ``mantissas[k]`` · 2^``shift``; mantissas are int16 ``[K]``."""

    shift: int
    mantissas: NDArray[np.int16]

    def integers(self) -> NDArray[np.int64]:
        """Return what was packed, int64 ``[K]``."""
        return self.mantissas.astype(np.int64) << np.int64(self.shift)

    def to_bytes(self) -> bytes:
        """Return the mantissas, little-endian, 2 bytes each."""
        return self.mantissas.astype("<i2").tobytes()

    @classmethod
    def from_bytes(cls, shift: int, data: bytes) -> Packed:
        """Return the inverse of :meth:`to_bytes`.

        :raises ValueError: the shift is out of bounds or the length is odd.
        """
        if shift > MAX_SHIFT or len(data) % 2:
            raise ValueError(f"a shift of {shift} and {len(data)} bytes")
        return cls(shift, np.frombuffer(data, dtype="<i2").astype(np.int16))


def packed(integers: NDArray[np.int64]) -> Packed:
    """Each rounded, half to even, to a multiple of 2^shift, the smallest shift with which all fit; int64 ``[K]``.

    They are below 2⁶² in magnitude.
    """
    largest = int(np.abs(integers).max(initial=0))
    shift = max(0, largest.bit_length() - 15)
    if shift and (largest + (1 << (shift - 1))) >> shift > MOST:
        shift += 1
    return Packed(shift, _rounded(integers, shift).astype(np.int16))


def halves(values: Sequence[float]) -> bytes:
    """Directional derivatives in half precision, little-endian, rounded half to even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32).astype("<f2").tobytes()


def integers_of(halves: bytes) -> NDArray[np.int64]:
    """Numbers in half precision as fixed-point integers: nothing is rounded, the least half is 2⁻²⁴.

    :raises UnusableScalarError: one is not finite, or the length is odd.
    """
    if len(halves) % 2:
        raise UnusableScalarError("an odd number of bytes")
    found = np.frombuffer(halves, dtype="<f2").astype(np.float64)
    if not np.isfinite(found).all():
        raise UnusableScalarError("not finite")
    integers: NDArray[np.int64] = (found * SCALE).astype(np.int64)
    return integers


def _rounded(integers: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """``integers`` / 2^``shift``, half to even, without leaving the integers."""
    if not shift:
        return integers
    down = integers >> np.int64(shift)
    rest = integers - (down << np.int64(shift))
    half = np.int64(1 << (shift - 1))
    rounded: NDArray[np.int64] = down + ((rest > half) | ((rest == half) & (down & 1 == 1)))
    return rounded
