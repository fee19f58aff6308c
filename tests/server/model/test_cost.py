"""The cost of a stage counts the weights that its graph multiplies with."""

import numpy as np
import onnx_ir as ir

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


def test_tables_and_biases_do_not_count():
    nodes = (("Gather", ["table", "x"], "z"), ("Add", ["z", "b"], "y"))
    table, bias = np.ones((50, 4), dtype=np.float32), np.ones(4, dtype=np.float32)
    assert weights_multiplied(model_of(*nodes, table=table, b=bias)) == 0
