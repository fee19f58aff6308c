import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import LABELS, WIDTH
from onnx import helper, numpy_helper

from fwdllm_client.engine.cost import PassCost, weights_multiplied
from fwdllm_common.errors import BadInputError


def test_only_multiplied_matrices_count(bundle):
    # The embedding table is looked up; the peft block and the head have no weights but θ.
    assert weights_multiplied(bundle.folder / "prefix.onnx") == WIDTH * WIDTH
    assert weights_multiplied(bundle.folder / "peft.onnx") == 0


def test_a_weight_counts_for_every_node_that_reads_it(tmp_path):
    weight = numpy_helper.from_array(np.ones((3, 3), dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]
    kinds = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 3]) for name in "xz"]
    graph = helper.make_graph(nodes, "shared", kinds[:1], kinds[1:], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "graph.onnx")
    assert weights_multiplied(tmp_path / "graph.onnx") == 18


def test_shares_add_up_to_one_pass(bundle):
    cost = PassCost(bundle.folder, bundle.manifest)
    tokens = np.array([8, 16, 20])
    cost.add(tokens, 0, 3)
    assert cost.example_passes == pytest.approx(3)
    cost.add(np.array([8]), 1, 3, times=4)
    peft, head = WIDTH * WIDTH * 8, WIDTH * LABELS + LABELS
    assert cost.example_passes == pytest.approx(3 + 4 * (peft + head) / (2 * peft + head))


@pytest.mark.parametrize("data", [b"\x3a\x7f", b"\x3a", b"\xff" * 30, b"\x3e"])
def test_a_file_that_is_no_graph_is_named(tmp_path, data):
    (tmp_path / "graph.onnx").write_bytes(data)
    with pytest.raises(BadInputError, match=r"graph\.onnx: not an ONNX graph"):
        weights_multiplied(tmp_path / "graph.onnx")
