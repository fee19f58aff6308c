"""Cutting an exported graph into stages that run one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from fwdllm_common.errors import BadInputError

# Weights above this size per stage lie in a file of their own, which a device can map into memory.
_EMBEDDED_BYTES = 1 << 16
_PAGE_BYTES = 4096


def cut_stage(model: ir.Model, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> ir.Model:
    """Cut out what makes ``outputs`` from ``inputs``, both given as value name → name in the stage.

    Inputs that the part does not read are left out, as are all weights it does not use.

    :raises BadInputError: the outputs also depend on another input of the model.
    """
    names = list(outputs)
    used = _inputs_read(model, set(inputs), names)
    if foreign := used - set(inputs):
        raise BadInputError(f"the model cannot be cut at {names[0]!r}: it also reads {sorted(foreign)[0]!r}")
    graph = ir.convenience.extract(model.graph, [name for name in inputs if name in used], names)
    for value in (*graph.inputs, *graph.outputs):
        value.name = inputs.get(str(value.name), outputs.get(str(value.name)))
    # The same model has to give the same bytes, so its weights need an order.
    weights = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(weights)
    stage = ir.Model(graph, ir_version=model.ir_version)
    # The exporter notes stack traces of this machine on every node.
    ClearMetadataAndDocStringPass()(stage)
    return stage


def save_stage(stage: ir.Model, graph_file: Path) -> Path | None:
    """Write the graph, and its weights beside it as ``<name>.data`` when they are large; returns that file or None."""
    size = sum(value.const_value.nbytes for value in stage.graph.initializers.values() if value.const_value is not None)
    if size <= _EMBEDDED_BYTES:
        ir.save(stage, graph_file)
        return None
    weights = graph_file.with_name(f"{graph_file.name}.data")
    ir.save(stage, graph_file, external_data=weights.name, alignment=_PAGE_BYTES)
    return weights


def _inputs_read(model: ir.Model, stops: set[str], outputs: list[str]) -> set[str]:
    """Which of ``stops`` and of the model's own inputs the outputs depend on, looking no further than ``stops``."""
    values = ir.convenience.create_value_mapping(model.graph)
    found: set[str] = set()
    seen: set[str] = set()
    pending = [value for name in outputs if (producer := values[name].producer()) for value in producer.inputs]
    while pending:
        value = pending.pop()
        if value is None or value.name in seen:
            continue
        seen.add(str(value.name))
        producer = value.producer()
        if value.name in stops or value.is_graph_input():
            found.add(str(value.name))
        elif producer is not None:
            pending.extend(producer.inputs)
    return found
