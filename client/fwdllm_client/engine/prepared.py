"""Stages with their weights prepacked for this processor, in files that are mapped into memory.

ONNX Runtime copies the weights of matrix products into the order that its kernels read ("prepacking"), into anonymous
memory that the system cannot reclaim. A saved copy beside the optimised graph is mapped instead: a stage of BERT-base
takes 25 MB of anonymous memory instead of 290 MB, loads four times faster, and gives the same bits. The file suits only
this processor and this version of ONNX Runtime, so each device makes its own.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.processor import machine_key
from fwdllm_client.engine.sessions import Cpu, Session, open_session, session_options
from fwdllm_common.manifest import BundleFile, Manifest, Stage

WORTH_BYTES = 128 << 20
"""Least size of weights to prepare, bytes: below it, making the file takes more memory than it saves."""
_GROWTH = 2
_GRAPH = "graph.onnx"
_SETTINGS = {
    "session.optimized_model_external_initializers_file_name": f"{_GRAPH}.data",
    "session.save_external_prepacked_constant_initializers": "1",
}


class PreparedCpu(Cpu):
    """The CPU with mapped weights, which are prepared at first use and kept in ``store`` within its limit."""

    def __init__(self, store: CompiledStages, worth_bytes: int = WORTH_BYTES) -> None:
        self._store = store
        self._worth_bytes = worth_bytes

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """Open a session on prepared weights, or on the original ones if none can be kept."""
        if stage.weights is None or stage.weights.bytes < self._worth_bytes:
            return super().open(folder, stage, threads)
        key, size = self._key(stage.graph, stage.weights), _GROWTH * stage.weights.bytes
        prepared = self._store.get(key, size, lambda part: _prepare(folder / stage.graph.name, part, threads))
        if prepared is None:
            return super().open(folder, stage, threads)
        options = session_options(threads)
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )  # the saved graph is optimised already
        return open_session(prepared / _GRAPH, options)

    def file_sizes(self, manifest: Manifest) -> dict[Path, int]:
        """Return the folders of this model's prepared stages, and the most bytes that each may take."""
        found: dict[Path, int] = {}
        for stage in manifest.stages:
            if stage.weights is not None and stage.weights.bytes >= self._worth_bytes:
                size = _GROWTH * stage.weights.bytes
                if sum(found.values()) + size <= self._store.limit_bytes:
                    found[self._store.path(self._key(stage.graph, stage.weights))] = size
        return found

    def _key(self, graph: BundleFile, weights: BundleFile) -> str:
        return machine_key(self.name, graph.sha256, weights.sha256)


def _prepare(graph: Path, part: Path, threads: int) -> None:
    options = session_options(threads)
    options.optimized_model_filepath = str(part / _GRAPH)
    for name, value in _SETTINGS.items():
        options.add_session_config_entry(name, value)
    open_session(graph, options)
