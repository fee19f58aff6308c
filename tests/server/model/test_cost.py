"""The cost of a stage counts the weights that its graph multiplies with."""

import numpy as np
import onnx_ir as ir
import pytest

from fwdllm_server.config.peft_spec import LAYER_METHODS
from fwdllm_server.model.cost import weights_multiplied


def model_of(*nodes, **weights):
    tensors = {name: ir.Value(name=name, const_value=ir.tensor(value)) for name, value in weights.items()}
    made = {}

    def value(name):
        return made.setdefault(name, tensors.get(name) or ir.Value(name=name))

    graph_nodes = [
        ir.Node("", kind, [value(name) for name in inputs], outputs=[value(output)]) for kind, inputs, output in nodes
    ]
    graph = ir.Graph([value("x")], [value("y")], nodes=graph_nodes, initializers=list(tensors.values()))
    return ir.Model(graph, ir_version=10)


def test_a_weight_counts_for_every_node_that_reads_it():
    nodes = (("MatMul", ["x", "w"], "z"), ("MatMul", ["z", "w"], "y"))
    assert weights_multiplied(model_of(*nodes, w=np.ones((3, 3), dtype=np.float32))) == 18


def test_a_shared_weight_that_is_transposed_counts_for_every_product():
    nodes = (("Transpose", ["w"], "t"), ("MatMul", ["x", "t"], "z"), ("MatMul", ["z", "t"], "y"))
    assert weights_multiplied(model_of(*nodes, w=np.ones((3, 3), dtype=np.float32))) == 18


def test_tables_and_biases_do_not_count():
    nodes = (("Gather", ["table", "x"], "z"), ("Add", ["z", "b"], "y"))
    table, bias = np.ones((50, 4), dtype=np.float32), np.ones(4, dtype=np.float32)
    assert weights_multiplied(model_of(*nodes, table=table, b=bias)) == 0


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_a_stage_costs_what_is_frozen_in_it_and_its_part_of_theta(prepared_models, method):
    """BERT's two upper layers and its pooler; of LoRA 4 targets of 32 x 32 at rank 2."""
    prepared = prepared_models("bert" if method == "lora" else f"bert-{method}")
    base = 2 * (4 * 32 * 32 + 2 * 32 * 48) + 32 * 32
    frozen = {"lora-fa": 4 * 2 * 32, "lora-xs": 2 * 4 * 2 * 32}.get(method, 0)
    assert prepared.manifest.stages[1].multiplications == base + frozen + prepared.layout.block("peft").size
