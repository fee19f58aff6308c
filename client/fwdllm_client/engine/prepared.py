"""Stages with their weights laid out for this processor, on disk, where the system maps them.

ONNX Runtime copies the weights of matrix products into the order its kernels read ("prepacking"): memory of the process
that the system cannot take back. Once such a copy has been saved beside the optimised graph, it is mapped like any
file: a stage of BERT-base takes 25 MB of anonymous memory instead of 290, loads four times faster, and gives the same
bits. The file suits this processor and this version of ONNX Runtime only, so each device makes its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnxruntime
import structlog

from fwdllm_client.engine.processor import machine_key
from fwdllm_client.engine.sessions import Cpu, Session, open_session, session_options
from fwdllm_common.errors import StorageError
from fwdllm_common.files import sha256_of, sync, write_atomically
from fwdllm_common.manifest import BundleFile, Manifest, Stage

WORTH_BYTES = 128 << 20
"""Smaller weights are not prepared: making the file takes more memory, once, than it would save."""
_GROWTH = 2
_GRAPH = "graph.onnx"
_WEIGHTS = "graph.onnx.data"
_HASHES = "sha256.json"
_PART = ".part"
_SETTINGS = {
    "session.optimized_model_external_initializers_file_name": _WEIGHTS,
    "session.save_external_prepacked_constant_initializers": "1",
}

_log = structlog.get_logger()


class PreparedCpu(Cpu):
    """The CPU with weights that are mapped: prepared at first use, kept in ``folder``.

    Files of other models are deleted, the oldest first, as far as ``limit_bytes`` demands it; what would be larger than
    that on its own is not prepared.
    """

    def __init__(self, folder: Path, limit_bytes: int, worth_bytes: int = WORTH_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._worth_bytes = worth_bytes
        self._intact: set[Path] = set()
        self._given_up: set[Path] = set()

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """See :class:`Provider`; a disk that cannot be written only means more memory."""
        if stage.weights is None or stage.weights.bytes < self._worth_bytes:
            return super().open(folder, stage, threads)
        target, size = self._target(stage.graph, stage.weights), _GROWTH * stage.weights.bytes
        try:
            if not self._is_intact(target):
                if size > self._limit_bytes or target in self._given_up:
                    return super().open(folder, stage, threads)
                self._prepare(folder / stage.graph.name, target, size, threads)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            shutil.rmtree(target, ignore_errors=True)
            self._given_up.add(target)
            reason = " ".join(str(error).split())
            _log.warning("the model takes more memory than it need, it cannot be prepared", reason=reason)
            return super().open(folder, stage, threads)
        options = session_options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it has been optimised
        return open_session(target / _GRAPH, options)

    def file_sizes(self, manifest: Manifest) -> dict[Path, int]:
        """The folders of this model's prepared stages, and the bytes that each may take."""
        found: dict[Path, int] = {}
        for stage in manifest.stages:
            if stage.weights is not None and stage.weights.bytes >= self._worth_bytes:
                size = _GROWTH * stage.weights.bytes
                if sum(found.values()) + size <= self._limit_bytes:
                    found[self._target(stage.graph, stage.weights)] = size
        return found

    def _target(self, graph: BundleFile, weights: BundleFile) -> Path:
        return self._folder / machine_key(self.name, graph.sha256, weights.sha256)

    def _prepare(self, graph: Path, target: Path, size: int, threads: int) -> None:
        self._make_room(target, size)
        part = target.with_name(target.name + _PART)
        part.mkdir(parents=True)
        options = session_options(threads)
        options.optimized_model_filepath = str(part / _GRAPH)
        for name, value in _SETTINGS.items():
            options.add_session_config_entry(name, value)
        try:
            open_session(graph, options)
            hashes = {name: sha256_of(part / name) for name in (_GRAPH, _WEIGHTS)}
            for name in hashes:
                sync(part / name)
            write_atomically(part / _HASHES, json.dumps(hashes).encode())
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._intact.add(target)
        _log.info("model prepared for this processor", bytes=_bytes_of(target))

    def _is_intact(self, target: Path) -> bool:
        """Whether every file has the hash that was noted; it is read once in the life of the process."""
        if target in self._intact:
            return True
        try:
            hashes = json.loads((target / _HASHES).read_bytes())
            intact = all(hashes[name] == sha256_of(target / name) for name in (_GRAPH, _WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if intact:
            target.touch()
            self._intact.add(target)
        return intact

    def _make_room(self, target: Path, size: int) -> None:
        """Delete what was left half-made, and prepared models that were used longest ago, until ``size`` bytes fit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for part in self._folder.glob(f"*{_PART}"):
            shutil.rmtree(part)
        left = self._limit_bytes - size - sum(map(_bytes_of, self._intact))
        if left < 0 or shutil.disk_usage(self._folder).free < size:
            raise StorageError(f"no room for {size} bytes more in {self._folder}")
        others = [path for path in self._folder.iterdir() if path.is_dir() and path not in {target, *self._intact}]
        for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            left -= _bytes_of(other)
            if left < 0:
                shutil.rmtree(other)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
