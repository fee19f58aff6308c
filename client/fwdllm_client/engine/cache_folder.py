"""The cache files of one model on one set of rows, and the room they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.engine.activations import ENTRY_BYTES, ActivationCache, cache_dtype, lines_of
from fwdllm_common.manifest import Manifest, Stage

_SUFFIX = ".activations"


def open_caches(folder: Path, manifest: Manifest, dataset: Dataset, limit_bytes: int) -> Mapping[int, ActivationCache]:
    """Caches by the index of the stage whose output they hold, in one file each; together at most ``limit_bytes``.

    Every stage has one but the last, those that only a further frozen stage reads, and in a chain with features those
    of the blocks: what they return costs less than to keep it. Features are kept behind the activation they come with.

    Pooled activations get room first, they are few and save the most, then the earliest stages, whose output stays
    valid longest. Files of other models or rows are deleted, the oldest first, as far as the limit demands it.

    :raises StorageError: the folder cannot be written.
    """
    caches: dict[int, ActivationCache] = {}
    own = set()
    left = limit_bytes
    for index in _kept(manifest):
        stage, path = manifest.stages[index], _path(folder, manifest, dataset, index)
        lengths = _lengths(manifest, stage, dataset)
        cache = ActivationCache(path, lengths, stage.width, cache_dtype(stage.per_token), left)
        path.touch()  # used now
        left -= cache.max_bytes
        caches[index] = cache
        own.add(path)
    _delete_others(folder, own, left)
    return caches


def file_sizes(folder: Path, manifest: Manifest, dataset: Dataset, limit_bytes: int) -> dict[Path, int]:
    """The files that :func:`open_caches` opens, and the bytes that each may grow to."""
    found: dict[Path, int] = {}
    left = limit_bytes
    for index in _kept(manifest):
        stage = manifest.stages[index]
        bytes_of_rows = (
            int(_lengths(manifest, stage, dataset).sum()) * stage.width * cache_dtype(stage.per_token).itemsize
        )
        size = min(left, ENTRY_BYTES * len(dataset) + bytes_of_rows)
        found[_path(folder, manifest, dataset, index)] = size
        left -= size
    return found


def _kept(manifest: Manifest) -> Sequence[int]:
    """The stages whose output is kept, in the order in which they get room."""
    kept = range(manifest.frozen - 1, manifest.frozen if manifest.features else len(manifest.stages) - 1)
    return sorted(kept, key=lambda index: (manifest.stages[index].per_token, index))


def _lengths(manifest: Manifest, stage: Stage, dataset: Dataset) -> NDArray[np.int64]:
    """Lines of each row."""
    if manifest.features:
        return dataset.lengths + lines_of(manifest.features, stage.width)
    return dataset.lengths if stage.per_token else np.ones(len(dataset), dtype=np.int64)


def _path(folder: Path, manifest: Manifest, dataset: Dataset, stage: int) -> Path:
    return folder / f"{_boundary_key(manifest, dataset, stage)[:32]}{_SUFFIX}"


def _delete_others(folder: Path, own: set[Path], limit_bytes: int) -> None:
    left = limit_bytes
    others = [path for path in folder.glob(f"*{_SUFFIX}") if path not in own]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        left -= path.stat().st_size
        if left < 0:
            path.unlink(missing_ok=True)


def _boundary_key(manifest: Manifest, dataset: Dataset, stage: int) -> str:
    """SHA-256 (hex) of all but θ that the output of ``stage`` depends on."""
    digest = hashlib.sha256()
    for part in manifest.stages[: stage + 1]:
        digest.update(f"{part.graph.sha256} {part.weights.sha256 if part.weights else '-'}\n".encode())
    settings = (manifest.tokenizer.sha256, manifest.max_tokens, manifest.pad_token_id, dataset.fingerprint)
    digest.update(repr((*settings, onnxruntime.__version__)).encode())
    return digest.hexdigest()
