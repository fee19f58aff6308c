"""Qualcomm's NPU through its plugin library, the package ``onnxruntime-qnn``. Not run on hardware."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnxruntime

from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.fixed_shapes import Sizes
from fwdllm_client.engine.interruption import INTERRUPTION
from fwdllm_client.engine.processor import machine_key
from fwdllm_client.engine.sessions import Session, SessionOptions, placed_options
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Stage

_PROVIDER = "QNNExecutionProvider"
_GRAPH = "graph.onnx"
# Compiled stages hold float16 weights, and float32 weights of the nodes that stay on the CPU.
_GROWTH = 2


class Qnn:
    """Compiles a stage for the NPU, which computes in float16, and keeps the result in ``store`` if given.

    Each entry is for one shape of the graph, one version of ONNX Runtime and of the plugin, and one processor.
    """

    name = "qnn"

    def __init__(self, store: CompiledStages | None) -> None:
        self._store = store
        self._devices: Sequence[Any] = ()
        self._settings: Mapping[str, str] = {}

    def compile(self, folder: Path, stage: Stage, threads: int, sizes: Sizes) -> Session:
        """Open a session on the compiled stage for these sizes.

        :raises BadInputError: the package is not installed, or it finds no device.
        """
        if not self._devices:
            self._register()
        graph, weights = folder / stage.graph.name, stage.weights
        if self._store is not None:
            key = machine_key(
                self.name, _plugin_version(), stage.graph.sha256, weights.sha256 if weights else "-", repr(dict(sizes))
            )
            size = _GROWTH * (stage.graph.bytes + (weights.bytes if weights else 0))
            kept = self._store.get(key, size, lambda part: self._keep(graph, part, threads, sizes))
            if kept is not None:
                try:
                    return self._open(kept / _GRAPH, placed_options(threads))
                except Exception as error:  # for example after an update of the driver
                    self._store.give_up(key, error)
        return self._open(graph, placed_options(threads, sizes))

    def _keep(self, graph: Path, part: Path, threads: int, sizes: Sizes) -> None:
        """Compile into files below ``part``."""
        options = placed_options(threads, sizes)
        settings = {
            "ep.context_enable": "1",
            "ep.context_file_path": str(part / _GRAPH),
            # Write the compiled parts to files beside the graph, which refers to them without a folder.
            "ep.context_embed_mode": "0",
            "ep.context_model_external_initializers_file_name": f"{_GRAPH}.data",
        }
        for name, value in settings.items():
            options.add_session_config_entry(name, value)
        self._open(graph, options)
        if not (part / _GRAPH).exists():
            raise BadInputError(f"{graph}: {_PROVIDER} compiled none of its nodes")

    def _open(self, graph: Path, options: SessionOptions) -> Session:
        options.add_provider_for_devices(self._devices, dict(self._settings))
        with INTERRUPTION.loading(options):
            return onnxruntime.InferenceSession(str(graph), options)

    def _register(self) -> None:
        try:
            package: Any = importlib.import_module("onnxruntime_qnn")
        except ImportError:
            raise BadInputError("the package onnxruntime-qnn is not installed") from None
        if not _devices():  # an earlier model in this process may have registered it
            onnxruntime.register_execution_provider_library(_PROVIDER, package.get_library_path())
        self._devices = _devices()
        if not self._devices:
            raise BadInputError("onnxruntime-qnn finds no device")
        self._settings = {
            "backend_path": package.get_qnn_htp_path(),
            "enable_htp_fp16_precision": "1",
            "htp_performance_mode": "sustained_high_performance",
        }


def _devices() -> Sequence[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]


def _plugin_version() -> str:
    try:
        return version("onnxruntime-qnn")
    except PackageNotFoundError:  # the module is there without the package's metadata
        return "unknown"
