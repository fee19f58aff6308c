"""Execution providers other than the CPU: each opens sessions, or says why it cannot.

:mod:`fwdllm_client.engine.provider_selection` tries them on the model and decides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.fixed_shapes import FixedShapes, Sizes
from fwdllm_client.engine.qnn import Qnn
from fwdllm_client.engine.sessions import CPU_PROVIDER, Provider, Session, open_session, placed_options
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest, Stage

OPT_IN = frozenset(["nnapi"])
"""Providers that are tried only on request: Android has deprecated NNAPI."""


class Xnnpack:
    """Kernels for ARM that some builds of ONNX Runtime include, with their own threads."""

    name = "xnnpack"
    _PROVIDER = "XnnpackExecutionProvider"

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """Open a session; nodes that XNNPACK does not take run on the CPU.

        :raises BadInputError: this build of ONNX Runtime does not have it.
        """
        _check_built_in(self._PROVIDER)
        settings = {"intra_op_num_threads": str(threads or os.cpu_count() or 1)}
        return open_session(folder / stage.graph.name, placed_options(1), [(self._PROVIDER, settings), CPU_PROVIDER])


class Nnapi:
    """Android's interface to accelerators, which takes fixed shapes only."""

    name = "nnapi"
    _PROVIDER = "NnapiExecutionProvider"

    def compile(self, folder: Path, stage: Stage, threads: int, sizes: Sizes) -> Session:
        """Open a session; nodes that NNAPI does not take run on the CPU.

        :raises BadInputError: this build of ONNX Runtime does not have it.
        """
        _check_built_in(self._PROVIDER)
        return open_session(folder / stage.graph.name, placed_options(threads, sizes), [self._PROVIDER, CPU_PROVIDER])


def accelerators(manifest: Manifest, store: CompiledStages | None = None) -> Sequence[Provider]:
    """Return all providers for the model of ``manifest``, in the order in which they are tried.

    ``store``, if given, keeps the compiled stages.
    """
    return [FixedShapes(Qnn(store), manifest), Xnnpack(), FixedShapes(Nnapi(), manifest)]


def _check_built_in(provider: str) -> None:
    # ONNX Runtime itself would only warn and run everything on the CPU.
    if provider not in onnxruntime.get_available_providers():
        raise BadInputError(f"this build of onnxruntime has no {provider}")


def placement(session: Session) -> Mapping[str, int]:
    """Count the nodes of the graph by the provider that runs them; empty if the session does not tell."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # not recorded, or not supported by this ONNX Runtime
        return {}
    nodes: dict[str, int] = {}
    for part in parts:
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes
