"""Block floating point: fixed-point integers as 16-bit mantissas that share a shift (docs/algorithm.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE

MOST = (1 << 15) - 1
"""The largest mantissa; the one below −``MOST`` stands for a number that is not finite or out of bounds."""
UNUSABLE = -MOST - 1
MAX_SHIFT = 48


class Packed(NamedTuple):
    """Integers ``mantissas[k]`` · 2^``shift``; mantissas are int16 ``[K]``."""

    shift: int
    mantissas: NDArray[np.int16]

    def integers(self) -> NDArray[np.int64]:
        """What was packed, int64 ``[K]``."""
        return self.mantissas.astype(np.int64) << np.int64(self.shift)

    def to_bytes(self) -> bytes:
        """The mantissas, little-endian, 2 bytes each."""
        return self.mantissas.astype("<i2").tobytes()

    @classmethod
    def from_bytes(cls, shift: int, data: bytes) -> Packed:
        """The inverse of :meth:`to_bytes`.

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


def packed_scalars(values: Sequence[float]) -> device_pb2.PackedScalars:
    """Directional derivatives as they travel; what is not finite or out of bounds is marked as unusable."""
    found = np.array(values, dtype=np.float64)
    usable = np.abs(found) <= MAX_MAGNITUDE  # which no NaN is
    rounded = np.rint(np.where(usable, found, 0.0) * SCALE).astype(np.int64)
    shift, mantissas = packed(rounded)
    mantissas[~usable] = UNUSABLE
    return device_pb2.PackedScalars(shift=shift, mantissas=Packed(shift, mantissas).to_bytes())


def _rounded(integers: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """``integers`` / 2^``shift``, half to even, without leaving the integers."""
    if not shift:
        return integers
    down = integers >> np.int64(shift)
    rest = integers - (down << np.int64(shift))
    half = np.int64(1 << (shift - 1))
    rounded: NDArray[np.int64] = down + ((rest > half) | ((rest == half) & (down & 1 == 1)))
    return rounded
