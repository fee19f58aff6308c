"""What an engine computes of a model in the tests: losses and scalars on local rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from server.model.conftest import LABELS, MAX_TOKENS, VOCABULARY, Prepared

from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.sessions import Provider
from fwdllm_common.directions import Directions

_ROWS = np.arange(24)


def _texts() -> Dataset:
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, MAX_TOKENS + 1, size=len(_ROWS))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(2, VOCABULARY, size=offsets[-1]).astype(np.int32)
    return Dataset(ids, offsets, rng.integers(0, len(LABELS), size=len(_ROWS)).astype(np.int32))


def computed(prepared: Prepared, provider: Provider, scratch: Path) -> list[np.ndarray]:
    """The mean loss, and the scalars of each block by both differences."""
    folder, manifest = prepared.folder, prepared.manifest
    theta = prepared.theta(1)[0]
    with Engine(folder, manifest, _texts(), scratch, 1, 0, provider, 256) as engine:
        values = [np.array([engine.evaluate(theta, _ROWS).loss])]
        for block in manifest.layout.blocks:
            for central in (False, True):
                task = DirectionTask(block, np.arange(5, dtype=np.uint64), 1e-2, 10, central)
                parts = engine.derivatives(theta, Directions(3), task, _ROWS)
                values.append(np.concatenate([part for _, part in parts]))
    return values
