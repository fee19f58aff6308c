"""Sessions of fixed shapes, for accelerators that compile a graph for one shape.

A run of any size is split into runs of one shape: texts are padded to the next of a few lengths, the last run is filled
up with copies of its last row, and the results of both are dropped. A fixed session has as many copies of θ as rows,
row n reading copy n, so that it serves any ratio of rows to copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fwdllm_client.engine.sessions import Session, open_session, placed_options
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest, Stage

SHORTEST = 16
"""Shortest length in tokens; the others are its doublings, up to the model's longest."""
TOKENS = 256
"""Most tokens (rows × length) in a run of perturbed copies, unless a single row has more."""

Sizes = Mapping[str, int]
"""Sizes of the free dimensions of a stage: ``rows``, ``tokens`` and ``copies_<block>``."""


class Compiler(Protocol):
    """A provider that must know all sizes in advance."""

    name: str

    def compile(self, folder: Path, stage: Stage, threads: int, sizes: Sizes) -> Session:
        """Open a session for the graph of ``stage`` in ``folder`` whose free dimensions have these sizes."""


class FixedShapes:
    """The ``compiler`` as a provider for the model of ``manifest``.

    The last stage runs on the CPU: rounding its losses to less than float32 would hide their differences.
    """

    def __init__(self, compiler: Compiler, manifest: Manifest) -> None:
        self.name = compiler.name
        self._compiler = compiler
        self._manifest = manifest

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        """Open a session that compiles a graph when a length first occurs; errors of that are not caught."""
        if "labels" in stage.inputs:
            return open_session(folder / stage.graph.name, placed_options(threads))
        return _FixedSession(stage, self._manifest, lambda sizes: self._compiler.compile(folder, stage, threads, sizes))


class _FixedSession:
    """A session of one stage. For frozen stages, which may be large, only the last length's session stays in memory."""

    def __init__(self, stage: Stage, manifest: Manifest, compiled: Callable[[Sizes], Session]) -> None:
        self._stage = stage
        self._manifest = manifest
        self._compiled = compiled
        self._sessions: dict[int, Session] = {}

    def run_with_ort_values(self, outputs: Sequence[str], feeds: Mapping[str, Any], options: Any = None) -> list[Any]:
        """Run like ONNX Runtime's method of this name, for any number of rows, copies and tokens."""
        arrays = {name: value.numpy() for name, value in feeds.items()}
        theta = arrays.pop("theta", None)
        per_token = {name for name, array in arrays.items() if name != "activation" or array.ndim == 3}
        rows = len(next(iter(arrays.values())))
        tokens = max((arrays[name].shape[1] for name in per_token), default=1)
        length = self._length(tokens)
        together = self._rows(length)
        for name in per_token:
            arrays[name] = self._lengthened(name, arrays[name], length)
        session = self._session(length)
        runs = []
        for first in range(0, rows, together):
            index = np.minimum(np.arange(first, first + together), rows - 1)
            fed = {name: array[index] for name, array in arrays.items()}
            if theta is not None:
                fed["theta"] = theta[index // (rows // len(theta))]
            values = session.run(list(outputs), fed, options)
            runs.append([value[: rows - first] for value in values])
        found = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        return [_owning(array[:, :tokens] if self._stage.per_token else array) for array in found]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Return the assignment of ONNX Runtime's session that was used last."""
        sessions = list(self._sessions.values())
        return list(sessions[-1].get_provider_graph_assignment_info()) if sessions else []

    def _length(self, tokens: int) -> int:
        length = SHORTEST
        while length < tokens:
            length *= 2
        return max(tokens, min(length, self._manifest.max_tokens))

    def _rows(self, length: int) -> int:
        """Return the rows per run: 1 for frozen stages, which the unperturbed pass feeds row by row."""
        return 1 if self._stage.block is None else max(1, TOKENS // length)

    def _lengthened(self, name: str, array: NDArray[Any], length: int) -> NDArray[Any]:
        widths = [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
        # Decoders take the last token that is not padding as the last of the text.
        return np.pad(array, widths, constant_values=self._manifest.pad_token_id if name == "input_ids" else 0)

    def _session(self, length: int) -> Session:
        if length not in self._sessions:
            if self._stage.block is None:
                self._sessions.clear()
            rows = self._rows(length)
            session = self._compiled({"rows": rows, "tokens": length, f"copies_{self._stage.block}": rows})
            for value in session.get_inputs():
                if not all(isinstance(size, int) for size in value.shape):
                    raise BadInputError(f"{self._stage.graph.name}: the input {value.name} has no fixed shape")
            self._sessions[length] = session
        return self._sessions[length]


def _owning(array: NDArray[Any]) -> Any:
    """Copy ``array`` into a value that owns its memory."""
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype)
    value.update_inplace(np.ascontiguousarray(array))
    return value
