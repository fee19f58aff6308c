"""Execution providers beside the CPU: each opens sessions, or says why it cannot.

Nothing here decides whether a provider is any good; :mod:`ladder` tries it on the model and compares.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from fwdllm_client.engine.sessions import CPU_PROVIDER, Provider, Session, open_session, session_options
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Stage

OPT_IN = frozenset(["nnapi"])
"""Tried only where it is asked for: Android has given NNAPI up."""
_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"


class Listed:
    """A provider that is built into ONNX Runtime, where it is: XNNPACK or NNAPI."""

    def __init__(self, name: str, provider: str, own_threads: bool = False) -> None:
        self.name = name
        self._provider = provider
        self._own_threads = own_threads

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """See :class:`Provider`.

        :raises BadInputError: this build of ONNX Runtime does not have it.
        """
        # ONNX Runtime itself only warns, and runs everything on the CPU.
        if self._provider not in onnxruntime.get_available_providers():
            raise BadInputError(f"this build of onnxruntime has no {self._provider}")
        settings = {"intra_op_num_threads": str(threads or os.cpu_count() or 1)} if self._own_threads else {}
        options = session_options(1 if self._own_threads else threads)
        options.add_session_config_entry(_RECORD_PLACEMENT, "1")
        return open_session(folder / stage.graph.name, options, [(self._provider, settings), CPU_PROVIDER])


class Qnn:
    """Qualcomm's NPU: a plugin library from the package ``onnxruntime-qnn``, floats computed as float16."""

    name = "qnn"
    _PROVIDER = "QNNExecutionProvider"

    def __init__(self) -> None:
        self._devices: Sequence[Any] = ()
        self._settings: Mapping[str, str] = {}

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """See :class:`Provider`.

        :raises BadInputError: its package is not installed, or it finds no device.
        """
        if not self._devices:
            self._register()
        options = session_options(threads)
        options.add_session_config_entry(_RECORD_PLACEMENT, "1")
        options.add_provider_for_devices(self._devices, dict(self._settings))
        return onnxruntime.InferenceSession(str(folder / stage.graph.name), options)

    def _register(self) -> None:
        try:
            package: Any = importlib.import_module("onnxruntime_qnn")
        except ImportError:
            raise BadInputError("the package onnxruntime-qnn is not installed") from None
        onnxruntime.register_execution_provider_library(self._PROVIDER, package.get_library_path())
        self._devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == self._PROVIDER]
        if not self._devices:
            raise BadInputError("onnxruntime-qnn finds no device")
        self._settings = {
            "backend_path": package.get_qnn_htp_path(),
            "htp_performance_mode": "sustained_high_performance",
        }


def accelerators() -> Sequence[Provider]:
    """All of them, in the order in which they are tried."""
    return [
        Qnn(),
        Listed("xnnpack", "XnnpackExecutionProvider", own_threads=True),
        Listed("nnapi", "NnapiExecutionProvider"),
    ]


def placement(session: Session) -> Mapping[str, int]:
    """How many nodes of the graph each provider really got; empty where the session does not tell."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # not recorded, or an ONNX Runtime before it could
        return {}
    nodes: dict[str, int] = {}
    for part in parts:
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes
