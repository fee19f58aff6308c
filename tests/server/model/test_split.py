"""Cutting a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.split import cut_stage, save_stage

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N] x, float[N] t, float[N] u) => (float[N] y)
<float[N] b, float[1] two = {2.0}, float[1] three = {3.0}> {
  a = Mul(x, two)
  b = Add(a, t)
  c = Mul(b, three)
  d = Add(c, a)
  y = Add(d, u)
}
"""


def test_a_stage_holds_what_lies_between_its_inputs_and_outputs(tmp_path: Path) -> None:
    stage = cut_stage(ir.from_onnx_text(GRAPH), {"x": "x", "b": "activation", "u": "theta", "t": "t"}, {"y": "loss"})
    assert [value.name for value in stage.graph.inputs] == ["x", "activation", "theta"]
    assert save_stage(stage, tmp_path / "stage.onnx") is None
    feeds = {name: np.float32([i]) for i, name in enumerate(("x", "activation", "theta"), start=1)}
    session = onnxruntime.InferenceSession(tmp_path / "stage.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["loss"], feeds)[0] == [2 * 3 + 1 * 2 + 3]


def test_a_path_around_the_cut_is_refused() -> None:
    with pytest.raises(BadInputError, match="cannot be cut at 'y': it also reads 'x'"):
        cut_stage(ir.from_onnx_text(GRAPH), {"b": "activation", "u": "theta"}, {"y": "loss"})
