#!/bin/sh
# ONNX's RandomNormal has an attribute `seed`: a graph could make the directions of a perturbation itself.
#
# One would guess that a node with a seed gives the same numbers whenever it runs, and that other seeds give others.
#
# With onnxruntime 1.32.0 the seed begins a stream that lives as long as the session: the second run gives other numbers
# than the first, and a new session begins anew. The attribute is a float, as the ONNX standard has it, so that whole
# numbers above 2^24 merge, and ONNX Runtime drops what follows the point: 16777216 and 16777217 are one seed, and so are
# 1.2 and 1.9.
#
# Why it matters: where a direction is named by its seed, a device that restarts between two directions, or computes one
# again, would perturb by something other than what its scalar is multiplied with; and seeds of 32 bits or more, as (round,
# block, candidate) make them, would name one direction many times over.
#
# Seen: runs of a session differ, first runs of two sessions are equal; seeds 1.2 = 1.9, 16777216 = 16777217, 1 != 2
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2
"$place/env/bin/python" - <<'EOF'
import onnxruntime
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__)


def runs(seed):
    """What two runs of a new session give."""
    node = helper.make_node("RandomNormal", [], ["out"], shape=[3], seed=seed)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [3])
    model = helper.make_model(
        helper.make_graph([node], "direction", [], [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {})[0].tolist() for _ in range(2)]


seeds = (1.0, 2.0, 1.2, 1.9, 16777216.0, 16777217.0)
found = {seed: runs(seed) for seed in seeds}
for seed, (first, second) in found.items():
    print(f"seed {seed}:", *(f"{number:.4f}" for number in first), "then", *(f"{number:.4f}" for number in second))
assert found[1.0][0] != found[1.0][1]
assert found[1.0] == runs(1.0)
assert found[1.0] == found[1.2] == found[1.9] != found[2.0]
assert found[16777216.0] == found[16777217.0]
EOF
