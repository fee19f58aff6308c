"""Execution providers beside the CPU: each opens sessions, or says why it cannot.

Nothing here decides whether a provider is any good; :mod:`ladder` tries it on the model and compares.
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
"""Tried only where it is asked for: Android has given NNAPI up."""


class Xnnpack:
    """Kernels for ARM that are built into some ONNX Runtimes, with threads of their own."""

    name = "xnnpack"
    _PROVIDER = "XnnpackExecutionProvider"

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """See :class:`Provider`.

        :raises BadInputError: this build of ONNX Runtime does not have it.
        """
        _check_built_in(self._PROVIDER)
        settings = {"intra_op_num_threads": str(threads or os.cpu_count() or 1)}
        return open_session(folder / stage.graph.name, placed_options(1), [(self._PROVIDER, settings), CPU_PROVIDER])


class Nnapi:
    """Android's own interface to accelerators, where it is built in; it takes fixed shapes only."""

    name = "nnapi"
    _PROVIDER = "NnapiExecutionProvider"

    def compile(self, folder: Path, stage: Stage, threads: int, sizes: Sizes) -> Session:
        """See :class:`Compiler`.

        :raises BadInputError: this build of ONNX Runtime does not have it.
        """
        _check_built_in(self._PROVIDER)
        return open_session(folder / stage.graph.name, placed_options(threads, sizes), [self._PROVIDER, CPU_PROVIDER])


def accelerators(manifest: Manifest, store: CompiledStages | None = None) -> Sequence[Provider]:
    """All of them for the model of ``manifest``, in the order in which they are tried.

    ``store`` keeps what they compile, if it is given.
    """
    return [FixedShapes(Qnn(store), manifest), Xnnpack(), FixedShapes(Nnapi(), manifest)]


def _check_built_in(provider: str) -> None:
    # ONNX Runtime itself only warns, and runs everything on the CPU.
    if provider not in onnxruntime.get_available_providers():
        raise BadInputError(f"this build of onnxruntime has no {provider}")


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
