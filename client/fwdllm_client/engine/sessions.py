"""Sessions of ONNX Runtime, which run the stages, and the execution providers that open them."""

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
    """A way to run stages."""

    @property
    def name(self) -> str:
        """The name that users see, in lower case, such as ``cpu``."""

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """Open a session for the graph of ``stage`` in ``folder``; ``threads`` of 0 means one per core.

        Errors of ONNX Runtime are not caught, because they have no common base class.
        """


class Cpu:
    """ONNX Runtime's own kernels, the reference for every other provider."""

    name = "cpu"

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """Open a session for the graph of ``stage`` in ``folder``; ``threads`` of 0 means one per core."""
        return open_session(folder / stage.graph.name, session_options(threads))


def session_options(threads: int) -> SessionOptions:
    """Return the options common to all sessions; ``threads`` of 0 means one per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Batches have many shapes, and ONNX Runtime would keep a memory plan for each; plans save no time here.
    options.enable_mem_pattern = False
    # A spinning thread would drain a phone's battery.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def placed_options(threads: int, sizes: Mapping[str, int] | None = None) -> SessionOptions:
    """Return options that record which provider runs each node, and fix the free dimensions in ``sizes``."""
    options = session_options(threads)
    options.add_session_config_entry(_RECORD_PLACEMENT, "1")
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def open_session(graph: Path, options: SessionOptions, providers: Sequence[Any] = (CPU_PROVIDER,)) -> Session:
    """Open a session that runs each node on the first of ``providers`` that supports it."""
    with INTERRUPTION.loading(options):
        return onnxruntime.InferenceSession(str(graph), options, providers=list(providers))
