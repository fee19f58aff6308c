"""What a stage costs, from its graph alone, so that example-passes mean the same on every device."""

from __future__ import annotations

import onnx_ir as ir

_LOOKUPS = {"Gather", "GatherBlockQuantized"}


def weights_multiplied(stage: ir.Model) -> int:
    """Elements of the frozen weight matrices that one token (or row, after pooling) is multiplied with.

    A weight that several nodes read counts each time. Embedding tables are only looked up and do not count; neither
    does attention's own product, small at the lengths that devices train on.
    """
    return sum(
        value.const_value.size
        for node in stage.graph
        if node.op_type not in _LOOKUPS
        for value in node.inputs
        if value is not None and value.const_value is not None and len(value.const_value.shape) > 1
    )
