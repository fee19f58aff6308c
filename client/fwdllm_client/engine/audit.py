"""Audit of a graph from an untrusted coordinator before a device runs it (docs/security.md).

* Its nodes have known operators: arithmetic on tensors, no loops, no subgraphs, no custom operators.
* Its constants are in the graph or in the stage's own weights file.
* Only the first stage reads tokens; a later stage may only test which of them are padding.
* The last stage's loss is the task's loss of its logits, and nothing else reads the labels.
* Features go from the last frozen stage to the last one, in a chain that the manifest says has them, and nowhere else.

The graph is parsed by protobuf, as in ONNX Runtime, with the fields of the format that the audit needs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from fwdllm.graph import onnx_pb2
from fwdllm_common.errors import NotAllowedError
from fwdllm_common.files import storage_error
from fwdllm_common.manifest import Manifest, Stage
from fwdllm_common.task import CLASSIFICATION, Task

MOST_GRAPH_BYTES = 64 << 20
"""Largest graph file, bytes; weights of more than 64 KB are in a separate file."""

_ONNX = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv Cos Cosh CumSum
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity
InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish
Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
RotaryEmbedding Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax
SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile
TopK Transpose Trilu Unsqueeze Where Xor
"""
_MICROSOFT = "GatherBlockQuantized MatMulNBits"
OPERATORS: dict[str, frozenset[str]] = {"": frozenset(_ONNX.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
"""The allowed operators by domain."""

_EXTERNAL = 1
_INT64 = 7
_PLACE = {"location", "offset", "length", "checksum"}
_SIZE = re.compile("[0-9]{1,18}")
_LOSS = {"loss", "logits"}


def audit(folder: Path, manifest: Manifest) -> None:
    """Audit every graph of the bundle in ``folder``.

    :raises NotAllowedError: a graph fails the audit.
    """
    for stage in range(len(manifest.stages)):
        audit_stage(folder, manifest, stage)


def audit_stage(folder: Path, manifest: Manifest, index: int) -> None:
    """Audit the graph of the stage with this index.

    :raises NotAllowedError: the graph fails the audit.
    :raises StorageError: the graph cannot be read.
    """
    stage = manifest.stages[index]
    graph = _Graph(folder / stage.graph.name, stage)
    is_last = index == len(manifest.stages) - 1
    graph.check_operators()
    graph.check_constants()
    gives_features = manifest.features > 0 and index == manifest.frozen - 1
    graph.check_values(_LOSS if is_last else {"next_activation", "features"} if gives_features else {"next_activation"})
    if index > 0:
        graph.check_tokens(manifest.pad_token_id)
    if "features" in stage.inputs and not (is_last and manifest.features):
        raise graph.refused("reads features, which only the last stage of a chain with features may")
    if is_last:
        graph.check_loss(manifest.task, manifest.features > 0)
    elif "labels" in stage.inputs:
        raise graph.refused("reads labels before the last stage")


class _Graph:
    """The graph in the file ``path`` and its entry in the manifest."""

    def __init__(self, path: Path, stage: Stage) -> None:
        self._name = path.name
        self._stage = stage
        # ONNX Runtime derives the format from the file's name.
        if path.suffix != ".onnx":
            raise self.refused("is not called .onnx")
        try:
            if path.stat().st_size > MOST_GRAPH_BYTES:
                raise self.refused(f"is larger than {MOST_GRAPH_BYTES >> 20} MiB without its weights")
            self._model = onnx_pb2.Model.FromString(path.read_bytes())
        except DecodeError as error:
            raise self.refused("is not ONNX") from error
        except OSError as error:
            raise storage_error(path, error) from error
        self._graph = self._model.graph

    def refused(self, why: str) -> NotAllowedError:
        """Return the error that says what is wrong with this graph."""
        return NotAllowedError(f"the graph {self._name!r} {why}")

    def check_operators(self) -> None:
        """Check that all operators are known."""
        if self._model.functions or self._model.training_info or self._graph.sparse_initializer:
            raise self.refused("has functions, sparse constants or a training step")
        for node in self._graph.node:
            if node.op_type not in OPERATORS.get(node.domain, ()):
                raise self.refused(f"has the operator {_shown(node)}, which this device does not run; update fwdllm")
            for each in node.attribute:
                if each.HasField("g") or each.graphs or each.HasField("ref_attr_name"):
                    raise self.refused(f"has a graph within its {node.op_type}")
                if each.HasField("sparse_tensor") or each.sparse_tensors:
                    raise self.refused(f"has a sparse constant in its {node.op_type}")

    def check_constants(self) -> None:
        """Check that all constants are in the graph or in the stage's weights file."""
        weights = self._stage.weights
        for tensor in self._graph.initializer:
            if tensor.data_location != _EXTERNAL and not tensor.external_data:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            if weights is None or place.get("location") != weights.name or not place.keys() <= _PLACE:
                raise self.refused("has constants outside its own weights file")
            if sum(_size(place.get(name, "0")) for name in ("offset", "length")) > weights.bytes:
                raise self.refused("has constants beyond the end of its weights file")
        for node in self._graph.node:
            for each in node.attribute:
                if any(tensor.data_location or tensor.external_data for tensor in (each.t, *each.tensors)):
                    raise self.refused(f"has a constant in another file in its {node.op_type}")

    def check_values(self, outputs: Collection[str]) -> None:
        """Check that inputs and outputs match the manifest, and that every value is defined once."""
        inputs = [value.name for value in self._graph.input]
        if sorted(inputs) != sorted(self._stage.inputs):
            raise self.refused(f"reads other values than the manifest says ({', '.join(self._stage.inputs)})")
        if sorted(value.name for value in self._graph.output) != sorted(outputs):
            raise self.refused(f"returns other values than {' and '.join(sorted(outputs))}")
        made = [name for node in self._graph.node for name in node.output if name]
        names = Counter([*inputs, *(tensor.name for tensor in self._graph.initializer), *made])
        if twice := [name for name, times in names.items() if times > 1]:
            raise self.refused(f"has two values called {twice[0][:64]!r}")

    def check_tokens(self, pad_token_id: int) -> None:
        """Check that tokens are only compared with the padding token, which the attention mask reveals too."""
        for node in self._readers("input_ids"):
            others = [name for name in node.input if name != "input_ids"]
            is_mask = node.op_type == "Equal" and [self._integers(name) for name in others] == [[pad_token_id]]
            if node.op_type != "Shape" and not is_mask:
                raise self.refused("reads tokens, which only the first stage may")

    def check_loss(self, task: Task, has_copies: bool = False) -> None:
        """Check that the loss is the task's loss of the returned logits and nothing else depends on the labels.

        Where the graph ``has_copies`` of θ on an axis of their own, the loss is that of each row with each copy.
        """
        if task != CLASSIFICATION:
            is_loss = not has_copies and self._is_span_loss()
        else:
            is_loss = self._is_class_loss_of_copies() if has_copies else self._is_class_loss()
        if not is_loss:
            raise self.refused(f"returns a loss that is not the one of {task}")

    def _is_class_loss_of_copies(self) -> bool:
        """Recognise the cross entropy of each row and copy, ``[N, P]``: labels looked up in every copy's logits."""
        return self._scores_behind("loss", "Neg", "Squeeze", axes=(2, -1), is_expanded=True) == "logits"

    def _is_class_loss(self) -> bool:
        """Return whether the loss is the cross entropy of each row."""
        fused = self._maker("loss", "SoftmaxCrossEntropyLoss")
        if fused is not None:
            is_plain = {each.name: each.s for each in fused.attribute} == {"reduction": b"none"}
            return is_plain and list(fused.input) == ["logits", "labels"] and self._times_read("labels") == 1
        return self._scores_behind("loss", "Neg", "Squeeze", axes=(1, -1)) == "logits"

    def _is_span_loss(self) -> bool:
        """Return whether the loss is the mean of each row's two cross entropies over the unmasked tokens."""
        masked = self._maker(self._scores_behind("loss", "Neg", "Squeeze", "ReduceMean", axes=(1, -2)), "Where")
        if masked is None:
            return False
        condition, filling, logits = masked.input
        return logits == "logits" and self._origins(filling) == set() and self._origins(condition) == {"attention_mask"}

    def _scores_behind(self, value: str, *operators: str, axes: Collection[int], is_expanded: bool = False) -> str:
        """Return the value whose log-softmax is looked up at the labels to give ``value``; "" if there is none.

        ``operators`` follow the lookup, the last one first; ``axes`` are the two indices of the axis of the softmax.
        Labels are ``is_expanded`` where they are looked up for several copies of θ.
        """
        for operator in operators:
            node = self._maker(value, operator)
            if node is None:
                return ""
            value = node.input[0]
        lookup = self._maker(value, "GatherElements")
        scores = lookup and self._maker(lookup.input[0], "LogSoftmax")
        if lookup is None or scores is None:
            return ""
        is_of_labels = self._is_expanded_labels if is_expanded else self._is_labels
        is_along = _axis(lookup, 0) in axes and _axis(scores, -1) in axes
        return scores.input[0] if is_along and is_of_labels(lookup.input[1]) else ""

    def _is_labels(self, value: str) -> bool:
        """Whether it is the labels with a further axis, and they go nowhere else."""
        node = self._maker(value, "Unsqueeze")
        return (
            node is not None
            and node.input[0] == "labels"
            and self._times_read("labels") == self._times_read(value) == 1
        )

    def _is_expanded_labels(self, value: str) -> bool:
        """Whether it is each row's label, repeated for copies of θ; how often, sizes of inputs say and no values."""
        node = self._maker(value, "Expand")
        if node is None or self._times_read(value) != 1 or not self._is_labels(node.input[0]):
            return False
        axes = self._integers(self._makers[node.input[0]].input[1])
        return axes in ([1, 2], [-2, -1]) and self._origins(node.input[1], of_sizes=False) == set()

    @cached_property
    def _makers(self) -> dict[str, onnx_pb2.Node]:
        return {name: node for node in self._graph.node for name in node.output}

    @cached_property
    def _constants(self) -> dict[str, onnx_pb2.Tensor]:
        found = {tensor.name: tensor for tensor in self._graph.initializer}
        made = ((node, each) for node in self._graph.node if node.op_type == "Constant" for each in node.attribute)
        return found | {node.output[0]: each.t for node, each in made if each.name == "value"}

    def _maker(self, value: str, operator: str) -> onnx_pb2.Node | None:
        """Return the node that computes ``value`` if its operator is ONNX's own ``operator``, else None."""
        node = self._makers.get(value)
        return node if node is not None and (node.domain, node.op_type) == ("", operator) else None

    def _readers(self, value: str) -> Iterator[onnx_pb2.Node]:
        return (node for node in self._graph.node if value in node.input)

    def _times_read(self, value: str) -> int:
        return sum(list(node.input).count(value) for node in self._graph.node)

    def _integers(self, value: str) -> list[int]:
        """Return the values of the int64 constant ``value``; empty if it is not such a constant."""
        tensor = self._constants.get(value)
        if tensor is None or tensor.data_type != _INT64 or tensor.external_data:
            return []
        return np.frombuffer(tensor.raw_data, dtype="<i8").tolist() if tensor.raw_data else list(tensor.int64_data)

    def _origins(self, value: str, of_sizes: bool = True) -> set[str]:
        """Return the inputs of the graph on which ``value`` depends, with ``of_sizes`` also by their sizes alone."""
        inputs, found, seen, pending = set(self._stage.inputs), set[str](), set[str](), [value]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in inputs:
                found.add(name)
            elif name in self._makers and (of_sizes or not self._is_size(name)):
                pending.extend(self._makers[name].input)
        return found

    def _is_size(self, value: str) -> bool:
        """Whether it is the shape of an input of the graph."""
        node = self._maker(value, "Shape")
        return node is not None and node.input[0] in self._stage.inputs


def _size(text: str) -> float:
    return int(text) if _SIZE.fullmatch(text) else math.inf


def _axis(node: onnx_pb2.Node, default: int) -> int:
    return next((each.i for each in node.attribute if each.name == "axis"), default)


def _shown(node: onnx_pb2.Node) -> str:
    return repr(f"{node.domain}.{node.op_type}"[:64] if node.domain else node.op_type[:64])
