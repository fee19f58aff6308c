"""The cache files of one model on one set of rows, and the room they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from fwdllm_client.data import Dataset
from fwdllm_client.engine.activations import ActivationCache, cache_dtype
from fwdllm_common.manifest import Manifest

_SUFFIX = ".activations"


def open_caches(folder: Path, manifest: Manifest, dataset: Dataset, limit_bytes: int) -> Mapping[int, ActivationCache]:
    """Caches by the index of the stage whose output they hold, in one file each; together at most ``limit_bytes``.

    Every stage has one but the last and those that only a further frozen stage reads.

    Pooled activations get room first, they are few and save the most, then the earliest stages, whose output stays
    valid longest. Files of other models or rows are deleted, the oldest first, as far as the limit demands it.

    :raises StorageError: the folder cannot be written.
    """
    stages = manifest.stages
    kept = range(manifest.frozen - 1, len(stages) - 1)
    paths = {stage: folder / f"{_boundary_key(manifest, dataset, stage)[:32]}{_SUFFIX}" for stage in kept}
    caches: dict[int, ActivationCache] = {}
    left = limit_bytes
    for index in sorted(kept, key=lambda index: (stages[index].per_token, index)):
        stage = stages[index]
        lengths = dataset.lengths if stage.per_token else np.ones(len(dataset), dtype=np.int64)
        cache = ActivationCache(paths[index], lengths, stage.width, cache_dtype(stage.per_token), left)
        left -= cache.max_bytes
        caches[index] = cache
    _delete_others(folder, set(paths.values()), left)
    return caches


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
