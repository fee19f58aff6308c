"""The activation cache files of one model and one set of rows, which share a size limit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from fwdllm_client.data import Dataset
from fwdllm_client.engine.activations import ENTRY_BYTES, ActivationCache, cache_dtype, lines_of
from fwdllm_common.manifest import Manifest, Stage

_SUFFIX = ".activations"

_log = structlog.get_logger()


def open_caches(folder: Path, manifest: Manifest, dataset: Dataset, limit_bytes: int) -> Mapping[int, ActivationCache]:
    """Open the caches, by the index of the stage whose output they hold; together at most ``limit_bytes``.

    Every stage has one except the last stage, frozen stages before the last frozen one, and in a chain with features
    the stages of blocks, whose output costs less to compute than to keep. Features are kept behind their activation.

    Pooled activations get space first, because they are few and save the most, then the earliest stages, whose output
    stays valid longest. Files of other models or rows are deleted, the oldest first, as far as the limit requires.

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
        _log.debug("activation cache opened", file=str(path), stage=index, max_bytes=cache.max_bytes)
        own.add(path)
    _delete_others(folder, own, left)
    return caches


def file_sizes(folder: Path, manifest: Manifest, dataset: Dataset, limit_bytes: int) -> dict[Path, int]:
    """Return the files that :func:`open_caches` opens, and the bytes that each may grow to."""
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
    """Return the stages whose output is cached, in the order in which they get space."""
    kept = range(manifest.frozen - 1, manifest.frozen if manifest.features else len(manifest.stages) - 1)
    return sorted(kept, key=lambda index: (manifest.stages[index].per_token, index))


def _lengths(manifest: Manifest, stage: Stage, dataset: Dataset) -> NDArray[np.int64]:
    """Lines of each row."""
    if manifest.at_targets:
        return dataset.predicted + lines_of(dataset.predicted * manifest.features, stage.width)
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
    """Hash everything except θ on which the output of ``stage`` depends (SHA-256, hex)."""
    digest = hashlib.sha256()
    for part in manifest.stages[: stage + 1]:
        digest.update(f"{part.graph.sha256} {part.weights.sha256 if part.weights else '-'}\n".encode())
    settings = (manifest.tokenizer.sha256, manifest.max_tokens, manifest.pad_token_id, dataset.fingerprint)
    digest.update(repr((*settings, onnxruntime.__version__)).encode())
    return digest.hexdigest()
