"""The cost of a stage, from its graph alone, so that example-passes mean the same on every device."""

from __future__ import annotations

import onnx_ir as ir

_NO_PRODUCTS = {"Gather", "GatherBlockQuantized", "Transpose"}


def weights_multiplied(stage: ir.Model) -> int:
    """Return the number of frozen weights that one token (or row, after pooling) is multiplied with.

    A weight that several nodes read counts each time. Embedding tables, which are only looked up, do not count, nor
    does attention's own product, which is small at the lengths that devices train on.
    """
    return sum(
        constant.size
        for node in stage.graph
        if node.op_type not in _NO_PRODUCTS
        for value in node.inputs
        if (constant := _constant(value)) is not None and len(constant.shape) > 1
    )


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the weight that ``value`` or its transpose is: large shared weights are exported transposed."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Transpose":
        value = producer.inputs[0]
    return None if value is None else value.const_value
