"""Plain inference with the agent's engine, alone in a process; prints its peak memory: ``inference.py BUNDLE DATA``.

Nothing is perturbed and nothing is cached; the peak is what an agent's is compared with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from fwdllm_client.agent.resource_usage import peak_rss_bytes
from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.logging import configure_logging
from fwdllm_common.manifest import Manifest


def main(bundle: Path, data: Path) -> None:
    """Predict every row of ``data`` with the model in ``bundle`` and print the peak resident memory in bytes."""
    configure_logging()
    manifest = Manifest.from_bytes((bundle / "manifest.json").read_bytes())
    dataset = Dataset.load(DataSource(data), bundle / manifest.tokenizer.name, manifest)
    theta = np.zeros(manifest.layout.size, dtype=np.float32)
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(bundle, manifest, dataset, Path(folder), threads=1, cache_limit_bytes=0) as engine,
    ):
        engine.evaluate(theta, np.arange(len(dataset)))
    print(peak_rss_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
