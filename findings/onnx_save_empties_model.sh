#!/bin/sh
# onnx.save_model with save_as_external_data=True writes a model's weights to a file beside the graph.
#
# One would guess that saving leaves the model in memory as it was, and that saving again replaces the file.
#
# With onnx 1.23.2 the model in memory has no weights any more afterwards: they became references to the file. Saved a
# second time, under another name, it writes the graph alone, which refers to the first file's name; no weights and no
# error. And a model saved over an older one appends its weights to the file: it grows with every export, and what nothing
# refers to any more stays in it.
#
# Why it matters: whoever exports the variants of a model (stages, int8, int4) from one model in memory, or a version after
# each round to the same place, ships graphs without weights, or files that are several times as large for phones to
# download, with the weights of all earlier versions inside.
#
# Seen: bytes in memory 4000, after saving 0; the second folder has only copy.onnx; the file has 4000, then 8000 bytes
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2
mkdir "$place/first" "$place/second"
"$place/env/bin/python" -W error - "$place" <<'EOF'
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__)
first, second = (Path(sys.argv[1]) / name for name in ("first", "second"))


def scaling(factor):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])],
        [numpy_helper.from_array(np.full(1000, factor, dtype=np.float32), "w")],
    )
    return helper.make_model(graph)


def save(model, file):
    onnx.save_model(model, file, save_as_external_data=True, location=file.stem + ".data", size_threshold=0)


model = scaling(1)
in_memory = [len(model.graph.initializer[0].raw_data)]
save(model, first / "model.onnx")
sizes = [(first / "model.data").stat().st_size]
in_memory.append(len(model.graph.initializer[0].raw_data))
save(model, second / "copy.onnx")
written = sorted(file.name for file in second.iterdir())
save(scaling(2), first / "model.onnx")
sizes.append((first / "model.data").stat().st_size)
print("bytes of weights in memory, before and after saving:", in_memory)
print("written when it is saved again elsewhere:", written)
print("bytes of the file of weights, after a first and a second model of the same size:", sizes)
assert (in_memory, written, sizes) == ([4000, 0], ["copy.onnx"], [4000, 8000]), (in_memory, written, sizes)
EOF
