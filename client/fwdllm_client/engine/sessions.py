"""What runs a stage: a session of ONNX Runtime, made by an execution provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import onnxruntime

from fwdllm_client.engine.interruption import INTERRUPTION
from fwdllm_common.manifest import Stage

Session: TypeAlias = Any
"""An ``onnxruntime.InferenceSession``."""
SessionOptions: TypeAlias = Any
"""An ``onnxruntime.SessionOptions``."""

CPU_PROVIDER = "CPUExecutionProvider"
_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
_ERRORS_ONLY = 3


class Provider(Protocol):
    """A way to run stages; ``name`` is what users see."""

    @property
    def name(self) -> str:
        """Lower case, such as ``cpu``."""

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """A session for the graph of ``stage`` in ``folder``; ``threads`` of 0 means one per core.

        Whatever ONNX Runtime raises goes through: its errors have no base class of their own.
        """


class Cpu:
    """ONNX Runtime's own kernels: what every other provider is measured against."""

    name = "cpu"

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """See :class:`Provider`."""
        return open_session(folder / stage.graph.name, session_options(threads))


def session_options(threads: int) -> SessionOptions:
    """What all sessions have in common; ``threads`` of 0 means one per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Batches come in many shapes and a memory plan is kept for each; plans save no time here.
    options.enable_mem_pattern = False
    # A thread that waits for work must not burn a phone's battery.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def placed_options(threads: int, sizes: Mapping[str, int] | None = None) -> SessionOptions:
    """Those of a session that tells who runs its nodes; free dimensions that ``sizes`` names are fixed."""
    options = session_options(threads)
    options.add_session_config_entry(_RECORD_PLACEMENT, "1")
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def open_session(graph: Path, options: SessionOptions, providers: Sequence[Any] = (CPU_PROVIDER,)) -> Session:
    """A session on the first of ``providers`` that takes a node; the last one takes the rest."""
    with INTERRUPTION.loading(options):
        return onnxruntime.InferenceSession(str(graph), options, providers=list(providers))
