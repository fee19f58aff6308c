"""Frozen weights in 8 or 4 bits: smaller files, nearly the same function, and the same way to θ."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from server.model.conftest import CASES, Prepared, batch, by_block, run_stages

from fwdllm_common.files import sha256_of
from fwdllm_common.manifest import Manifest
from fwdllm_server.config.peft_spec import LAYER_METHODS
from fwdllm_server.config.precision import Precision
from fwdllm_server.model.export import OPSET
from fwdllm_server.model.quantise import BLOCK, quantise_bundle, quantise_graph

BITS: dict[Precision, int] = {"int8": 8, "int4": 4}


def quantised(prepared: Prepared, precision: Precision, folder: Path) -> Prepared:
    shutil.copytree(prepared.folder, folder, copy_function=shutil.copyfile)
    return replace(prepared, folder=folder, manifest=quantise_bundle(folder, prepared.manifest, precision))


def bytes_of(manifest: Manifest) -> list[int]:
    return [stage.graph.bytes + (stage.weights.bytes if stage.weights else 0) for stage in manifest.stages]


def graph_of(prepared: Prepared, stage: int) -> onnx.GraphProto:
    return onnx.load(prepared.folder / prepared.manifest.stages[stage].graph.name).graph


@pytest.fixture(params=list(BITS))
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


def test_losses_stay_close_for_every_architecture_and_method(
    prepared: Prepared, precision: Precision, tmp_path: Path
) -> None:
    small = quantised(prepared, precision, tmp_path / "bundle")
    feeds, theta = batch(12, 11), by_block(prepared.layout, prepared.theta(3))
    expected, _ = run_stages(prepared, feeds, theta)
    found, _ = run_stages(small, feeds, theta)
    error = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
    assert 0 < error < {"int8": 0.1, "int4": 1.1}[precision]


def test_every_stage_with_frozen_matrices_shrinks(prepared: Prepared, precision: Precision, tmp_path: Path) -> None:
    small = quantised(prepared, precision, tmp_path / "bundle")
    before, after = bytes_of(prepared.manifest), bytes_of(small.manifest)
    assert sum(after) < 0.75 * sum(before)
    assert all(new <= old for old, new in zip(before, after, strict=True))


def test_what_is_multiplied_with_theta_stays_float32(prepared: Prepared, precision: Precision, tmp_path: Path) -> None:
    """And so do the frozen bases of LoRA, which are narrow."""
    small = quantised(prepared, precision, tmp_path / "bundle")
    for index in range(len(small.manifest.stages)):
        graph = graph_of(small, index)
        sizes = {value.name: tuple(value.dims) for value in graph.initializer}
        for node in graph.node:
            if node.op_type == "MatMulNBits":
                assert min(attribute.i for attribute in node.attribute if attribute.name in ("K", "N")) >= BLOCK
            elif node.op_type in ("MatMul", "Gemm"):
                assert all(min(sizes[name]) < BLOCK for name in node.input if len(sizes.get(name, ())) == 2)


def test_theta_has_the_same_layout_and_passes_the_same_cost(
    prepared: Prepared, precision: Precision, tmp_path: Path
) -> None:
    small = quantised(prepared, precision, tmp_path / "bundle").manifest
    assert small.layout == prepared.manifest.layout
    assert [stage.multiplications for stage in small.stages] == [s.multiplications for s in prepared.manifest.stages]


def test_the_manifest_describes_the_new_files(prepared_bert: Prepared, precision: Precision, tmp_path: Path) -> None:
    small = quantised(prepared_bert, precision, tmp_path / "bundle")
    assert Manifest.from_bytes((small.folder / "manifest.json").read_bytes()) == small.manifest
    assert {path.name for path in small.folder.iterdir()} == {f.name for f in small.manifest.files} | {"manifest.json"}
    for file in small.manifest.files:
        path = small.folder / file.name
        assert (sha256_of(path), path.stat().st_size) == (file.sha256, file.bytes)


def test_quantising_is_reproducible(prepared_bert: Prepared, precision: Precision, tmp_path: Path) -> None:
    one, other = (quantised(prepared_bert, precision, tmp_path / name) for name in ("one", "other"))
    assert one.manifest.to_bytes() == other.manifest.to_bytes()


def test_float32_changes_nothing(prepared_bert: Prepared, tmp_path: Path) -> None:
    same = quantised(prepared_bert, "float32", tmp_path / "bundle")
    assert same.manifest == prepared_bert.manifest
    for file in same.manifest.files:
        assert sha256_of(same.folder / file.name) == file.sha256


def test_a_linked_file_keeps_its_content(prepared_bert: Prepared, tmp_path: Path) -> None:
    """The coordinator's store links what a job folder holds."""
    folder, linked = tmp_path / "bundle", tmp_path / "linked.onnx"
    shutil.copytree(prepared_bert.folder, folder)
    graph = prepared_bert.manifest.stages[0].graph
    linked.hardlink_to(folder / graph.name)
    quantise_bundle(folder, prepared_bert.manifest, "int8")
    assert sha256_of(linked) == graph.sha256


@pytest.mark.parametrize("name", ["bert", "albert", "roberta"])
def test_blocks_hold_the_nearest_numbers(
    name: str, precision: Precision, prepared_models: Callable[[str], Prepared], tmp_path: Path
) -> None:
    """Every quantised value is within a step of a weight of the float32 graph, and a shared weight is there once."""
    prepared = prepared_models(name)
    small = quantised(prepared, precision, tmp_path / "bundle")
    checked = sum(
        check_blocks(graph_of(prepared, stage), graph_of(small, stage), BITS[precision]) for stage in range(2)
    )
    assert checked >= 7


def check_blocks(before: onnx.GraphProto, after: onnx.GraphProto, bits: int) -> int:
    """Holds the quantised weights of one stage against the float32 ones; returns how many nodes read them."""
    originals = {value.name: numpy_helper.to_array(value) for value in before.initializer}
    tensors = {value.name: numpy_helper.to_array(value) for value in after.initializer}
    assert len(tensors) == len(after.initializer)
    readers = [node for node in after.node if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    for node in readers:
        weight = node.input[1] if node.op_type == "MatMulNBits" else node.input[0]
        name, use, _ = weight.rsplit(".", 2)
        original = originals[name].T if use == "product" else originals[name]
        scales = tensors[node.input[2]]
        values = unpacked(tensors[weight].reshape(len(scales), -1), bits)[:, : original.shape[1]]
        steps = np.repeat(scales, BLOCK, axis=1)[:, : original.shape[1]]
        assert (np.abs(values * steps - original) <= np.abs(steps) * 1.001).all()
        assert np.abs(values * steps - original).mean() < 0.3 * np.abs(steps).mean()
    return len(readers)


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes as the signed numbers in them, ``[rows, numbers]``."""
    if bits == 8:
        return packed.astype(np.int64) - 128
    return np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.int64) - 8


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (4, 0.2)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_a_bias(bits: int, tolerance: float, transposed: int) -> None:
    """As GPT-2 has it; no architecture above exports one that is wide."""
    random = np.random.default_rng(1)
    shape = (40, 72) if transposed else (72, 40)
    weight, bias = random.normal(size=shape).astype(np.float32), random.normal(size=40).astype(np.float32)
    x = random.normal(size=(5, 72)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 72])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 40])]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "gemm", inputs, outputs, tensors)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    assert quantise_graph(model, bits)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    expected = x @ (weight.T if transposed else weight) + bias
    (found,) = session.run(None, {"x": x})
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0 < error < tolerance


def test_a_large_weight_that_two_products_share(precision: Precision) -> None:
    """The exporter leaves its transpose to the device: as ALBERT has it, but for its small twin above."""
    weight = np.random.default_rng(1).normal(0, 0.1, (64, 64)).astype(np.float32)
    x = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["z"]),
        helper.make_node("MatMul", ["z", "t"], ["y"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 64])] for name in ("x", "y")
    )
    graph = helper.make_graph(nodes, "shared", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    assert quantise_graph(model, BITS[precision])
    assert [node.op_type for node in model.graph] == ["MatMulNBits"] * 2
    assert len(model.graph.initializers) == 2
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    expected = x @ weight.T @ weight.T
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < {"int8": 0.03, "int4": 0.3}[precision]


# Odd, prime and round, on both sides of a block's and of two blocks' ends.
WIDTHS = st.one_of(st.sampled_from([33, 37, 61, 63, 64, 65, 67, 97, 127]), st.integers(BLOCK, 160))


def run_node(node: onnx.NodeProto, weight: np.ndarray, feed: np.ndarray, bits: int) -> tuple[np.ndarray, list[str]]:
    """What the operator makes of ``feed`` with the quantised ``weight``, and the operators of the graph."""
    kind = helper.np_dtype_to_tensor_dtype(feed.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, [None] * feed.ndim)]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "one", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    assert quantise_graph(model, bits)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0], [each.op_type for each in model.graph]


@given(rows=WIDTHS, width=WIDTHS, bits=st.sampled_from([4, 8]), seed=st.integers(0, 9))
def test_a_table_of_any_width_keeps_its_shape(rows: int, width: int, bits: int, seed: int) -> None:
    """A row in 4 bits fills whole bytes, so that a table of odd width would gain a column: it has 8 bits."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(rows, width)).astype(np.float32)
    indices = random.integers(0, rows, (3, 4))
    found, operators = run_node(helper.make_node("Gather", ["w", "x"], ["y"]), table, indices, bits)
    assert operators == ["GatherBlockQuantized"]
    assert found.shape == (3, 4, width)
    steps = 0.01 if bits == 8 or width % 2 else 0.16
    assert np.abs(found - table[indices]).max() <= steps * np.abs(table).max()


@given(
    summed=WIDTHS,
    outputs=WIDTHS,
    rows=st.sampled_from([1, 2, 5]),
    bits=st.sampled_from([4, 8]),
    transposed=st.sampled_from([None, 0, 1]),
)
def test_a_product_of_any_size_stays_the_same(
    summed: int, outputs: int, rows: int, bits: int, transposed: int | None
) -> None:
    """MatMul, and Gemm with either order of its weight."""
    random = np.random.default_rng(summed * outputs)
    weight = random.normal(size=(outputs, summed) if transposed else (summed, outputs)).astype(np.float32)
    x = random.normal(size=(rows, summed)).astype(np.float32)
    if transposed is None:
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    found, operators = run_node(node, weight, x, bits)
    expected = x @ (weight.T if transposed else weight)
    assert operators == ["MatMulNBits"]
    assert found.shape == expected.shape
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < {8: 0.03, 4: 0.3}[bits]


def test_cases_cover_all_methods() -> None:
    assert {spec.method for _, spec in CASES.values()} == set(LAYER_METHODS)


def test_the_quantiser_leaves_everybodys_logging_alone() -> None:
    program = "import logging as l, fwdllm_server.model.quantise; print(l.getLogger().handlers, l.getLogger().level)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["[]", str(logging.WARNING)]
