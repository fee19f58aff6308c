"""What share of a forward pass a stage is, from its graph alone: no timing, so the same on every device.

The cost of a stage for one row is the number of weights that it multiplies with, θ included, times the row's tokens
when it works on every token. A weight that several nodes read counts each time; embedding tables are only looked up
and do not count; neither does attention's own product, small at the lengths devices train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

# Field numbers of ONNX's protobuf messages (onnx.proto3); a device has no onnx package.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OPERATOR = 1, 4
_TENSOR_DIMS, _TENSOR_NAME = 1, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LOOKUPS = {b"Gather", b"GatherBlockQuantized"}


class PassCost:
    """Counts forward passes: ``example_passes`` is rows × passes, a part of a pass counted as its share."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        stages = manifest.stages
        sizes = [0 if s.block is None else manifest.layout.block(s.block).size for s in stages]
        self._weights = [
            weights_multiplied(folder / s.graph.name) + size for s, size in zip(stages, sizes, strict=True)
        ]
        self._on_tokens = [True, *(stage.per_token for stage in stages[:-1])]
        self.example_passes = 0.0

    def add(self, tokens: NDArray[np.int64], first: int, stop: int, times: int = 1) -> None:
        """Count the stages ``[first, stop)`` for rows of these padded lengths."""
        costs = np.array([np.full(len(tokens), w) * (tokens if on_tokens else 1) for w, on_tokens in self._stages()])
        self.example_passes += times * float((costs[first:stop].sum(axis=0) / costs.sum(axis=0)).sum())

    def _stages(self) -> Iterator[tuple[int, bool]]:
        yield from zip(self._weights, self._on_tokens, strict=True)


def weights_multiplied(graph_file: Path) -> int:
    """Elements of the weight matrices that one token or row is multiplied with in an ONNX graph.

    :raises BadInputError: the file is no ONNX graph.
    """
    sizes: dict[bytes, int] = {}
    nodes: list[memoryview] = []
    try:
        for field, graph in _fields(memoryview(graph_file.read_bytes())):
            for part, message in _fields(graph) if field == _MODEL_GRAPH else ():
                if part == _GRAPH_INITIALIZER:
                    name, size = _matrix(message)
                    sizes[name] = size
                elif part == _GRAPH_NODE:
                    nodes.append(message)
        return sum(sizes.get(name, 0) for node in nodes for name in _weights_read(node))
    except (IndexError, ValueError, OSError) as error:
        raise BadInputError(f"{graph_file}: not an ONNX graph ({error}); download the model again") from error


def _matrix(tensor: memoryview) -> tuple[bytes, int]:
    name, dims = b"", []
    for field, value in _fields(tensor):
        if field == _TENSOR_NAME:
            name = bytes(value)
        elif field == _TENSOR_DIMS:
            dims += list(_varints(value))
    return name, prod(dims) if len(dims) > 1 else 0


def _weights_read(node: memoryview) -> list[bytes]:
    fields = list(_fields(node))
    if any(field == _NODE_OPERATOR and bytes(value) in _LOOKUPS for field, value in fields):
        return []
    return [bytes(value) for field, value in fields if field == _NODE_INPUT]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message, each as its number and its bytes (of a varint: the varint's own)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        start, kind = position, key & 7
        if kind == _BYTES:
            size, start = _varint(message, position)
            position = start + size
        elif kind == _VARINT:
            _, position = _varint(message, position)
        else:
            position += _FIXED_SIZES.get(kind, len(message))
        if position > len(message):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, message[start:position]


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
