"""What every method of the benchmark is given: a bundle, a cache, a batch of true size, and how much to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, Manifest

BATCH = 8
TOKENS = 64
DIRECTIONS = 24
"""What a round of the preset ``upper-layers`` asks of each of its 20 devices in the layers."""
HEAD_DIRECTIONS = 205
"""What a round of both presets, ``default`` and ``upper-layers``, asks of each in the head."""
THETA_FILE = "theta.npy"
_SEED = 1


@dataclass(frozen=True)
class Workplace:
    """A bundle with its θ₀ in ``bundle``, and the device's ``cache``, which stays from process to process."""

    shape: str
    bundle: Path
    cache: Path
    threads: int
    vocabulary: int
    directions: int = DIRECTIONS
    batch: int = BATCH
    steps: int = 3
    """Timed ones in a process, the least of which counts."""

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return Manifest.from_bytes((self.bundle / MANIFEST_FILE).read_bytes())

    @property
    def theta(self) -> Float32Vector:
        """θ₀, float32 ``[d]``."""
        theta: Float32Vector = np.load(self.bundle / THETA_FILE)
        return theta

    @property
    def rows(self) -> Dataset:
        """A batch of random tokens, all texts equally long."""
        random = np.random.default_rng(_SEED)
        tokens = random.integers(2, self.vocabulary, self.batch * TOKENS).astype(np.int32)
        offsets = np.arange(self.batch + 1, dtype=np.int64) * TOKENS
        return Dataset(tokens, offsets, random.integers(0, 4, self.batch).astype(np.int32))
