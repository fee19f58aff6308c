"""The quantisation of frozen weights to 8 or 4 bits: smaller stages from a float32 bundle.

Only weights are quantised, by ONNX Runtime's own quantiser, in blocks of 32 along the summed dimension, each with one
scale; the products are float32. Quantised activations would hide a scalar: a step of ε changes them by less than their
rounding. The nodes are inserted here and not by ONNX Runtime's ``MatMulNBitsQuantizer``, which writes a weight that
several nodes read (ALBERT) once for each, and skips 8-bit embedding tables and every ``Gemm`` (GPT-2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fwdllm_common.files import write_atomically
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest, Stage
from fwdllm_server.config.precision import Precision
from fwdllm_server.model.block_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer
from fwdllm_server.model.split import save_stage

Packed = NDArray[np.uint8]
BLOCK = 32
"""The number of weights that share a scale."""
_BITS: Mapping[Precision, int] = {"int8": 8, "int4": 4}
_DOMAIN = "com.microsoft"
_FLOAT32_PRODUCTS = 1  # accuracy_level of MatMulNBits; 4 would quantise activations


def quantise_bundle(folder: Path, manifest: Manifest, precision: Precision) -> Manifest:
    """Replace the stages and the manifest of the float32 bundle in ``folder`` by quantised ones; return the manifest.

    Matrices narrower than :data:`BLOCK` stay float32, as do LoRA's frozen matrices.
    """
    if precision == "float32":
        return manifest
    stages = tuple(_quantise_stage(folder, stage, _BITS[precision]) for stage in manifest.stages)
    quantised = replace(manifest, stages=stages)
    write_atomically(folder / MANIFEST_FILE, quantised.to_bytes())
    return quantised


def quantise_graph(model: ir.Model, bits: int) -> bool:
    """Quantise every wide constant that ``model`` multiplies with or looks up in; return whether there are any."""
    weights = _Weights(model.graph, bits)
    for node in list(model.graph):
        if _multiplies_constant(node):
            _replace_product(node, weights)
        elif _looks_up_constant(node):
            _replace_lookup(node, weights)
    for node in list(model.graph):
        if _transposed(node.outputs[0]) is not None and not node.outputs[0].uses():
            model.graph.remove(node, safe=True)
    if weights.made:
        model.opset_imports[_DOMAIN] = 1
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    return bool(weights.made)


def _quantise_stage(folder: Path, stage: Stage, bits: int) -> Stage:
    graph_file = folder / stage.graph.name
    model = ir.external_data.load_to_model(ir.load(graph_file))
    if not quantise_graph(model, bits):
        return stage
    # A device may hold the old file's hard link, and what is written to it is not to be its new content.
    for file in (stage.graph, stage.weights):
        if file is not None:
            (folder / file.name).unlink()
    weights = save_stage(model, graph_file)
    return replace(stage, graph=BundleFile.of(graph_file), weights=None if weights is None else BundleFile.of(weights))


def _multiplies_constant(node: ir.Node) -> bool:
    if node.op_type == "Gemm":
        is_plain = (
            node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
            and not node.attributes.get_int("transA", 0)
            and (len(node.inputs) < 3 or _rank(node.inputs[2]) == 1)
        )
        return is_plain and _is_wide(node.inputs[1])
    return node.op_type == "MatMul" and _is_wide(_transposed(node.inputs[1]) or node.inputs[1])


def _looks_up_constant(node: ir.Node) -> bool:
    return node.op_type == "Gather" and not node.attributes.get_int("axis", 0) and _is_wide(node.inputs[0])


def _is_wide(value: ir.Value | None) -> bool:
    tensor = None if value is None else value.const_value
    return (
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and len(tensor.shape) == 2
        and min(tensor.shape.numpy()) >= BLOCK
    )


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """Return the constant matrix whose transpose is ``value``: large shared weights are exported transposed."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    (matrix,) = producer.inputs
    return matrix if _is_wide(matrix) else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _replace_product(node: ir.Node, weights: _Weights) -> None:
    data, weight, *bias = node.inputs
    assert weight is not None
    matrix = _transposed(weight)
    transposed = matrix is not None or bool(node.attributes.get_int("transB", 0))
    weight = matrix or weight
    blocks, scales = weights.quantised(weight, along_rows=not transposed)
    assert weight.shape is not None
    rows, columns = weight.shape.numpy()
    summed, outputs = (columns, rows) if transposed else (rows, columns)
    attributes = {"K": summed, "N": outputs, "accuracy_level": _FLOAT32_PRODUCTS}
    inputs = (data, blocks, scales, *((None, None, *bias) if bias else ()))
    _turn_into(node, "MatMulNBits", inputs, {**attributes, "bits": weights.bits, "block_size": BLOCK})


def _replace_lookup(node: ir.Node, weights: _Weights) -> None:
    table, indices = node.inputs
    assert table is not None
    rows, scales, bits = weights.table(table)
    attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": BLOCK}
    _turn_into(node, "GatherBlockQuantized", (rows, indices, scales), attributes)


def _turn_into(node: ir.Node, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int]) -> None:
    node.domain, node.op_type = _DOMAIN, kind
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    for name, number in attributes.items():
        node.attributes.add(ir.AttrInt64(name, number))


class _Weights:
    """The quantised weights of a graph, each quantised once."""

    def __init__(self, graph: ir.Graph, bits: int) -> None:
        self._graph = graph
        self.bits = bits
        self.made: dict[str, tuple[ir.Value, ir.Value]] = {}

    def quantised(self, weight: ir.Value, along_rows: bool) -> tuple[ir.Value, ir.Value]:
        """Quantise a matrix ``[K, N]`` (its transpose unless ``along_rows``) in blocks along K.

        Return the weights, uint8 ``[N, blocks, bytes]``, and the scales, float32 ``[N, blocks]``.
        """
        use = "product" if along_rows else "transposed"
        return self._made(weight, use, self.bits, along_rows, lambda packed, _: packed)

    def table(self, weight: ir.Value) -> tuple[ir.Value, ir.Value, int]:
        """Quantise a table ``[rows, width]`` in blocks along its width.

        Return the weights, uint8 ``[rows, bytes]``, the scales ``[rows, blocks]`` and the number of bits. That is 8 for
        an odd width: the operator derives the width from the bytes of a row, and a padding half byte would become a
        column.
        """
        assert weight.shape is not None
        bits = 8 if int(weight.shape.numpy()[1]) % 2 else self.bits

        def cut(packed: Packed, width: int) -> Packed:
            return packed.reshape(len(packed), -1)[:, : width * bits // 8]

        return (*self._made(weight, "table", bits, False, cut), bits)

    def _made(
        self, weight: ir.Value, use: str, bits: int, along_rows: bool, shaped: Callable[[Packed, int], Packed]
    ) -> tuple[ir.Value, ir.Value]:
        name = f"{weight.name}.{use}"
        if name not in self.made:
            assert weight.const_value is not None
            values: NDArray[np.float32] = weight.const_value.numpy()
            summed_first = np.ascontiguousarray(values if along_rows else values.T)
            config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
            packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(summed_first)
            blocks = shaped(packed, len(summed_first))
            self.made[name] = self._add(f"{name}.int{bits}", blocks), self._add(f"{name}.scales", scales)
        return self.made[name]

    def _add(self, name: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value
