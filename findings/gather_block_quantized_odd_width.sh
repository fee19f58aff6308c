#!/bin/sh
# ONNX Runtime's GatherBlockQuantized looks rows up in a table of 4-bit numbers. With the numbers packed in uint8, one
# would guess that the width of a looked-up row is that of the table, known from the scales' blocks or an attribute. It is
# twice the bytes of a row: a table 33 wide, whose rows end with half a byte unused, gives rows of 34 numbers. Exporters
# have to keep tables of odd width in another type.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2
"$place/env/bin/python" - <<'EOF'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnxruntime", onnxruntime.__version__)
found = {}
for width in (32, 33, 34):
    table = np.full((4, (width + 1) // 2), 0x99, dtype=np.uint8)  # 9 is 1 above the zero point
    scales = np.ones((4, (width + 31) // 32), dtype=np.float32)
    node = helper.make_node(
        "GatherBlockQuantized", ["table", "rows", "scales"], ["out"], domain="com.microsoft",
        bits=4, block_size=32, gather_axis=0, quantize_axis=1,
    )
    graph = helper.make_graph(
        [node], "lookup",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"rows": np.array([0, 2])})
    found[width] = out.shape[1]
    print("a table", width, "wide gives rows of", out.shape[1])
assert found == {32: 32, 33: 34, 34: 34}, found
EOF
