"""A bounded file of activations: what one stage boundary gave for each row, so that it is computed once.

The file holds one 64-bit entry per row and then the rows, each at its own place whether or not it is filled yet. An
entry is half a tag (which model, data and θ the row was computed with) and the CRC-32 of its bytes, started from the
other half. A row counts only if both agree, so rows that are half-written, damaged, or of another θ are never
used. Positioned reads instead of a memory map: a full disk is then an error instead of a SIGBUS, and what the
system caches of the file is not memory of this process.
"""

from __future__ import annotations

import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from fwdllm_common.files import storage_error

Activation = NDArray[Any]
"""float16 or float32."""
ENTRY_BYTES = 8
_HALF = 32
_FLOAT16_MAX = 65504.0

_log = structlog.get_logger()


def cache_dtype(per_token: bool) -> np.dtype[Any]:
    """float16 for the many activations of tokens, float32 for the few pooled ones."""
    return np.dtype(np.float16 if per_token else np.float32)


def rounded(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Activation:
    """Activations in the precision of the cache; what float16 cannot hold becomes its largest number."""
    if dtype == np.float16:
        return np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
    return values.astype(np.float32)


def packed(activation: Activation, features: NDArray[np.float32]) -> Activation:
    """A row's activation, float16 ``[T, width]``, and its features, float32, as one to be kept.

    Further lines of the activation are the features' bytes.
    """
    lines = np.zeros((lines_of(len(features), activation.shape[1]), activation.shape[1]), dtype=np.float16)
    lines.reshape(-1).view(np.uint8)[: features.nbytes] = features.view(np.uint8)
    return np.concatenate((activation, lines))


def unpacked_features(kept: Activation, features: int) -> NDArray[np.float32]:
    """The features, so many, that :func:`packed` put behind an activation."""
    lines = np.ascontiguousarray(kept[len(kept) - lines_of(features, kept.shape[1]) :])
    return lines.reshape(-1).view(np.uint8)[: 4 * features].view(np.float32)


def lines_of(features: int, width: int) -> int:
    """How many lines of an activation, float16 ``[T, width]``, so many features take, float32."""
    return -(-4 * features // (2 * width))


class ActivationCache:
    """The activations of one boundary.

    Row i is ``[row_lengths[i], width]``: one line per token, or a single one if pooled. Rows that would end beyond
    ``limit_bytes`` are not kept.

    :raises StorageError: the file cannot be made.
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
        # Models come and go in a process that stays: the file goes with the cache, also where nobody closes it.
        self._close = weakref.finalize(self, os.close, self._file)
        self._path = path
        self.max_bytes = int(self._starts[self._kept]) if self._kept else 0
        """What the file may grow to."""
        table = os.pread(self._file, data_start, 0)
        self._entries = np.zeros(len(row_lengths), dtype="<u8")
        self._entries.view(np.uint8)[: len(table)] = np.frombuffer(table, dtype=np.uint8)

    def read(self, row: int, tag: int) -> Activation | None:
        """The activation of ``row`` under ``tag`` (64 bits): ``[tokens, width]``; None if the file does not have it."""
        if self.lacks(row, tag):
            return None
        size = int(self._starts[row + 1] - self._starts[row])
        data = os.pread(self._file, size, int(self._starts[row]))
        if len(data) != size or _entry(tag, data) != int(self._entries[row]):
            return None
        return np.frombuffer(data, dtype=self._dtype).reshape(int(self._lengths[row]), self._width)

    def lacks(self, row: int, tag: int) -> bool:
        """Whether ``row`` was never computed under ``tag``, going by its entry alone."""
        return row >= self._kept or int(self._entries[row]) >> _HALF != tag >> _HALF

    def keeps(self, row: int) -> bool:
        """Whether there is room for ``row``."""
        return row < self._kept

    def write(self, row: int, tag: int, values: Activation) -> None:
        """Keep the activation of ``row``, if it fits; a full disk only ends the caching."""
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
                "activations are computed anew each time, the cache cannot be written",
                file=str(self._path),
                reason=error.strerror,
            )
            return
        self._entries[row] = entry

    def close(self) -> None:
        """Give the file back; the cache cannot be used any more."""
        self._close()


def _entry(tag: int, data: bytes) -> int:
    return tag >> _HALF << _HALF | zlib.crc32(data, tag & ((1 << _HALF) - 1))
