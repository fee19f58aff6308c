"""A tiny three-stage bundle written by hand, and the same model in float64 numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fwdllm_client.data import Dataset
from fwdllm_common.files import sha256_of
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.manifest import BundleFile, Manifest, Stage

VOCABULARY, WIDTH, LABELS, MAX_TOKENS = 50, 6, 3, 20
ROWS = 40
_TEXT = {"input_ids": ("rows", "tokens"), "attention_mask": ("rows", "tokens")}


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    embedding: np.ndarray
    frozen: np.ndarray

    def loss(self, dataset: Dataset, rows: np.ndarray, theta: np.ndarray) -> float:
        """The mean loss in float64, row by row, with the prefix rounded to float16 as on the device."""
        weights = {name: value.astype(np.float64) for name, value in self.manifest.layout.unpack(theta).items()}
        return float(np.mean([self._row_loss(dataset, int(row), weights)[0] for row in rows]))

    def logits(self, dataset: Dataset, row: int, theta: np.ndarray) -> np.ndarray:
        return self._row_loss(dataset, row, self.manifest.layout.unpack(theta))[1]

    def _row_loss(self, dataset: Dataset, row: int, weights: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
        ids = dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]]
        prefix = np.tanh(self.embedding[ids].astype(np.float64) @ self.frozen).astype(np.float16).astype(np.float64)
        features = (prefix + np.tanh(prefix @ weights["peft.w"])).mean(axis=0)
        logits = features @ weights["head.w"] + weights["head.b"]
        return float(np.log(np.exp(logits).sum()) - logits[dataset.labels[row]]), logits


def write_bundle(folder: Path, seed: int = 0) -> Bundle:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    embedding = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    frozen = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text("{}")
    layout = Layout(
        (
            TensorSpec("peft.w", (WIDTH, WIDTH), "peft"),
            TensorSpec("head.w", (WIDTH, LABELS), "head"),
            TensorSpec("head.b", (LABELS,), "head"),
        )
    )
    graphs = {
        "prefix": _prefix(embedding, frozen),
        "peft": _peft(),
        "head": _head(),
    }
    files = {name: _save(folder / f"{name}.onnx", graph) for name, graph in graphs.items()}
    manifest = Manifest(
        labels=tuple("abc"),
        max_tokens=MAX_TOKENS,
        pad_token_id=0,
        tokenizer=BundleFile(tokenizer.name, sha256_of(tokenizer), tokenizer.stat().st_size),
        layout=layout,
        stages=(
            Stage(None, files["prefix"], None, ("input_ids", "attention_mask"), True, WIDTH, WIDTH * WIDTH),
            Stage("peft", files["peft"], None, ("attention_mask", "activation", "theta"), False, WIDTH, WIDTH * WIDTH),
            Stage(
                "head", files["head"], None, ("activation", "theta", "labels"), False, LABELS, WIDTH * LABELS + LABELS
            ),
        ),
    )
    return Bundle(folder, manifest, embedding, frozen)


def make_dataset(rows: int = ROWS, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, MAX_TOKENS + 1, size=rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token_ids = rng.integers(1, VOCABULARY, size=offsets[-1]).astype(np.int32)
    return Dataset(token_ids, offsets, rng.integers(0, LABELS, size=rows).astype(np.int32))


def make_theta(manifest: Manifest, seed: int = 2) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).normal(size=manifest.layout.size)).astype(np.float32)


def _save(path: Path, graph: onnx.GraphProto) -> BundleFile:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return BundleFile(path.name, sha256_of(path), path.stat().st_size)


def _prefix(embedding: np.ndarray, frozen: np.ndarray) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "frozen"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["bounded"]),
        # Padding gives large numbers, which nothing may depend on.
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["padding"]),
        helper.make_node("Mul", ["padding", "large"], ["noise"]),
        helper.make_node("Unsqueeze", ["noise", "last"], ["noise3"]),
        helper.make_node("Add", ["bounded", "noise3"], ["next_activation"]),
    ]
    constants = {
        "embedding": embedding,
        "frozen": frozen,
        "one": np.float32(1),
        "large": np.float32(1e6),
        "last": np.array([-1]),
    }
    return _graph(nodes, constants, _TEXT, {"next_activation": ("rows", "tokens", WIDTH)})


def _per_copy_linear(weight_shape: tuple[int, int], start: int, stop: int) -> tuple[list, dict]:
    """``flat [rows, in]`` → ``linear [rows, out]`` with the copy of θ that the row belongs to."""
    nodes = [
        helper.make_node("Slice", ["theta", "w_start", "w_stop", "w_axis"], ["w_flat"]),
        helper.make_node("Reshape", ["w_flat", "w_shape"], ["w"]),
        helper.make_node("Shape", ["theta"], ["copies"], start=0, end=1),
        helper.make_node("Concat", ["copies", "rest"], ["x_shape"], axis=0),
        helper.make_node("Reshape", ["activation", "x_shape"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["linear"]),
    ]
    constants = {
        "w_start": np.array([start]),
        "w_stop": np.array([stop]),
        "w_axis": np.array([1]),
        "w_shape": np.array([-1, *weight_shape]),
        "rest": np.array([-1, weight_shape[0]]),
    }
    return nodes, constants


def _peft() -> onnx.GraphProto:
    nodes, constants = _per_copy_linear((WIDTH, WIDTH), 0, WIDTH * WIDTH)
    nodes += [
        helper.make_node("Tanh", ["linear"], ["bounded"]),
        helper.make_node("Shape", ["activation"], ["shape"]),
        helper.make_node("Reshape", ["bounded", "shape"], ["update"]),
        helper.make_node("Add", ["activation", "update"], ["sum"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["sum", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "tokens"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["pooled"]),
        helper.make_node("Identity", ["pooled"], ["next_activation"]),
    ]
    constants |= {"last": np.array([-1]), "tokens": np.array([1])}
    inputs = {
        "attention_mask": _TEXT["attention_mask"],
        "activation": ("rows", "tokens", WIDTH),
        "theta": ("copies_peft", WIDTH * WIDTH),
    }
    return _graph(nodes, constants, inputs, {"next_activation": ("rows", WIDTH)})


def _head() -> onnx.GraphProto:
    nodes, constants = _per_copy_linear((WIDTH, LABELS), 0, WIDTH * LABELS)
    nodes += [
        helper.make_node("Slice", ["theta", "b_start", "b_stop", "w_axis"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "w_axis"], ["b3"]),
        helper.make_node("Add", ["linear", "b3"], ["logits3"]),
        helper.make_node("Reshape", ["logits3", "flat"], ["logits"]),
        helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["loss"], reduction="none"),
    ]
    constants |= {
        "b_start": np.array([WIDTH * LABELS]),
        "b_stop": np.array([WIDTH * LABELS + LABELS]),
        "flat": np.array([-1, LABELS]),
    }
    inputs = {
        "activation": ("rows", WIDTH),
        "theta": ("copies_head", WIDTH * LABELS + LABELS),
        "labels": ("rows",),
    }
    return _graph(nodes, constants, inputs, {"loss": ("rows",), "logits": ("rows", LABELS)})


def _graph(nodes: list, constants: dict, inputs: dict, outputs: dict) -> onnx.GraphProto:
    def value(name: str, shape: object) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if name in ("input_ids", "attention_mask", "labels") else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, list(shape))

    return helper.make_graph(
        nodes,
        "stage",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
