"""A bounded file cache of activations: the output at one stage boundary for each row.

The file holds one 64-bit entry per row, followed by the rows at fixed offsets. An entry consists of half a tag (which
identifies model, data and θ) and the CRC-32 of the row's bytes, seeded with the tag's other half. A row is used only if
both match, so half-written or damaged rows and rows of another θ are never used. Positioned reads instead of a memory
map turn a full disk into an error instead of a SIGBUS, and keep the page cache out of this process' memory.
"""

from __future__ import annotations

import os
import weakref
import zlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from fwdllm_common.files import storage_error

IntOrArray = TypeVar("IntOrArray", int, NDArray[np.int64])
Activation = NDArray[Any]
"""A row's activation, float16 or float32 ``[tokens, width]``."""
ENTRY_BYTES = 8
_HALF = 32
_FLOAT16_MAX = 65504.0

_log = structlog.get_logger()


def cache_dtype(per_token: bool) -> np.dtype[Any]:
    """Return float16 for activations per token, which are many, and float32 for pooled ones."""
    return np.dtype(np.float16 if per_token else np.float32)


def rounded(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Activation:
    """Round activations to the cache's precision; values beyond float16's range are clipped."""
    if dtype == np.float16:
        return np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
    return values.astype(np.float32)


def packed(activation: Activation, features: NDArray[np.float32]) -> Activation:
    """Return a row's activation, float16 ``[T, width]``, and its features, float32, as one to be kept.

    Further lines of the activation are the features' bytes.
    """
    lines = np.zeros((lines_of(len(features), activation.shape[1]), activation.shape[1]), dtype=np.float16)
    lines.reshape(-1).view(np.uint8)[: features.nbytes] = features.view(np.uint8)
    return np.concatenate((activation, lines))


def unpacked_features(kept: Activation, features: int) -> NDArray[np.float32]:
    """Return the features, so many, that :func:`packed` put behind an activation."""
    lines = np.ascontiguousarray(kept[len(kept) - lines_of(features, kept.shape[1]) :])
    return lines.reshape(-1).view(np.uint8)[: 4 * features].view(np.float32)


def lines_of(features: IntOrArray, width: int) -> IntOrArray:
    """How many lines of an activation, float16 ``[T, width]``, so many features take, float32."""
    return -(-4 * features // (2 * width))


class ActivationCache:
    """The activations of one boundary.

    Row i is ``[row_lengths[i], width]``: one vector per token, or a single one if pooled. Rows that would end beyond
    ``limit_bytes`` are not cached.

    :raises StorageError: the file cannot be created.
    """

    def __init__(
        self, path: Path, row_lengths: NDArray[np.int64], width: int, dtype: np.dtype[Any], limit_bytes: int
    ) -> None:
        self._lengths = row_lengths
        self._width = width
        self._dtype = dtype
        data_start = ENTRY_BYTES * len(row_lengths)
        ends = data_start + np.cumsum(row_lengths) * width * dtype.itemsize
        self._starts = np.concatenate([np.array([data_start], dtype=np.int64), ends])
        self._kept = int(np.searchsorted(ends, limit_bytes, side="right"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(path, error) from error
        # The process outlives its models: closes the file with the cache, even without a call of close.
        self._close = weakref.finalize(self, os.close, self._file)
        self._path = path
        self.max_bytes = int(self._starts[self._kept]) if self._kept else 0
        """Largest size of the file, bytes."""
        table = os.pread(self._file, data_start, 0)
        self._entries = np.zeros(len(row_lengths), dtype="<u8")
        self._entries.view(np.uint8)[: len(table)] = np.frombuffer(table, dtype=np.uint8)

    def read(self, row: int, tag: int) -> Activation | None:
        """Return the activation of ``row`` under ``tag`` (64 bits), ``[tokens, width]``; None if it is not cached."""
        if self.lacks(row, tag):
            return None
        size = int(self._starts[row + 1] - self._starts[row])
        data = os.pread(self._file, size, int(self._starts[row]))
        if len(data) != size or _entry(tag, data) != int(self._entries[row]):
            return None
        return np.frombuffer(data, dtype=self._dtype).reshape(int(self._lengths[row]), self._width)

    def lacks(self, row: int, tag: int) -> bool:
        """Return whether ``row`` is not cached under ``tag``, by its entry alone."""
        return row >= self._kept or int(self._entries[row]) >> _HALF != tag >> _HALF

    def keeps(self, row: int) -> bool:
        """Return whether ``row`` fits into the file."""
        return row < self._kept

    def write(self, row: int, tag: int, values: Activation) -> None:
        """Cache the activation of ``row`` if it fits; a full disk only ends the caching."""
        if not self.keeps(row):
            return
        data = values.tobytes()
        entry = _entry(tag, data)
        try:
            os.pwrite(self._file, data, int(self._starts[row]))
            os.pwrite(self._file, entry.to_bytes(8, "little"), ENTRY_BYTES * row)
        except OSError as error:
            self._kept = 0
            _log.warning(
                "the activation cache cannot be written; activations are computed again each time",
                file=str(self._path),
                reason=error.strerror,
            )
            return
        self._entries[row] = entry

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        self._close()


def _entry(tag: int, data: bytes) -> int:
    return tag >> _HALF << _HALF | zlib.crc32(data, tag & ((1 << _HALF) - 1))
