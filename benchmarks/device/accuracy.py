"""How near the scalars of a quantised bundle are to those of the float32 bundle that it was made from."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.workplace import Workplace
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions

SCALARS_FILE = "scalars.npy"
"""Beside a bundle: float64 ``[2, K]``, of the float32 bundle and of the quantised one."""
_SEED = 9
_MOVED = 0.02
_EPSILON = 1e-3


def scalars_of(place: Workplace) -> NDArray[np.float64]:
    """Return directional derivatives of the first block, float64 ``[K]``, at a θ at which all parts have an effect."""
    manifest = place.manifest
    theta = place.theta + np.float32(_MOVED) * Directions(_SEED).vector(_SEED, 0, manifest.layout.size)
    block = next(iter(manifest.layout.blocks))
    task = DirectionTask(block, np.arange(place.directions, dtype=np.uint64), _EPSILON, place.batch)
    with (
        TemporaryDirectory(dir=place.bundle.parent) as cache,
        Engine(place.bundle, manifest, place.rows, Path(cache)) as engine,
    ):
        rows = np.arange(place.batch)
        return np.concatenate([values for _, values in engine.derivatives(theta, Directions(1), task, rows)])


def accuracy(bundle: Path) -> dict[str, float] | None:
    """Correlation with float32's scalars and the error relative to their norm; None of a float32 bundle."""
    if not (bundle / SCALARS_FILE).exists():
        return None
    exact, found = np.load(bundle / SCALARS_FILE)
    return {
        "directions": len(exact),
        "correlation": float(np.corrcoef(exact, found)[0, 1]),
        "relative_error": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
    }
