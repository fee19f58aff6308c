"""What a device's process holds after one task on the bundle in the folder given: JSON on the standard output."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.device.memory import anonymous_bytes, mapped_bytes
from fwdllm_client.agent.resource_usage import peak_rss_bytes
from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions
from fwdllm_common.logging import configure_logging
from fwdllm_common.manifest import MANIFEST_FILE, Manifest

ROWS, TOKENS, DIRECTIONS = 8, 64, 4


def main() -> None:
    """Prefix, adapted layers and head on 8 texts of 64 tokens, with one thread; bytes and CPU seconds."""
    configure_logging()
    folder = Path(sys.argv[1])
    manifest = Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
    ids = np.random.default_rng(0).integers(1000, 2000, ROWS * TOKENS, dtype=np.int32)
    dataset = Dataset(ids, np.arange(0, ROWS * TOKENS + 1, TOKENS), np.zeros(ROWS, dtype=np.int32))
    theta = np.full(manifest.layout.size, 0.01, dtype=np.float32)
    task = DirectionTask("peft", np.arange(DIRECTIONS, dtype=np.uint64), 1e-3, ROWS)
    started = time.process_time()
    with (
        tempfile.TemporaryDirectory() as cache,
        Engine(folder, manifest, dataset, Path(cache), threads=1) as engine,
    ):
        list(engine.derivatives(theta, Directions(1), task, np.arange(ROWS)))
        seconds = time.process_time() - started
        held = {"anonymous": anonymous_bytes(), "mapped": mapped_bytes()}
    print(json.dumps({**held, "peak": peak_rss_bytes(), "seconds": seconds}))


if __name__ == "__main__":
    main()
