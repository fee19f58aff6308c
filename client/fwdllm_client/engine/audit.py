"""Audit of a graph from an untrusted coordinator before a device runs it (docs/security.md).

* Its nodes have known operators: arithmetic on tensors, no loops, no subgraphs, no custom operators.
* Its constants are in the graph or in the stage's own weights file.
* Only the first stage reads tokens; a later stage may only test which of them are padding.
* The last stage's loss is the task's loss of its logits, and nothing else reads the labels, but for slopes: products of
  constants with the softmax of these logits minus 1 at the token to be predicted.
* Features go from the last frozen stage to the last one, in a chain that the manifest says has them, and nowhere else.

The graph is parsed by protobuf, as in ONNX Runtime, with the fields of the format that the audit needs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from google.protobuf.message import DecodeError

from fwdllm.graph import onnx_pb2
from fwdllm_client.tasks import task_named
from fwdllm_client.tasks.loss_graph import LossGraph
from fwdllm_common.errors import NotAllowedError
from fwdllm_common.files import storage_error
from fwdllm_common.manifest import Manifest, Stage

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
    outputs = {"next_activation", "features"} if gives_features else {"next_activation"}
    graph.check_values(_LOSS | ({"slopes"} if manifest.linearised else set()) if is_last else outputs)
    if index > 0:
        graph.check_tokens(manifest.pad_token_id)
    if "features" in stage.inputs and not (is_last and manifest.features):
        raise graph.refused("reads features, which only the last stage of a chain with features may")
    if is_last:
        graph.check_loss(manifest.task, manifest.features > 0 and not manifest.at_targets)
        if manifest.linearised:
            graph.check_slopes()
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
        self._nodes = LossGraph(self._graph, stage.inputs)

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
        for node in self._nodes.readers("input_ids"):
            others = [name for name in node.input if name != "input_ids"]
            is_mask = node.op_type == "Equal" and [self._nodes.integers(name) for name in others] == [[pad_token_id]]
            if node.op_type != "Shape" and not is_mask:
                raise self.refused("reads tokens, which only the first stage may")

    def check_loss(self, task: str, has_copies: bool) -> None:
        """Check that the loss is the task's loss of the returned logits and nothing else depends on the labels.

        Where the graph ``has_copies`` of θ on an axis of their own, the loss is that of each row with each copy.
        """
        if not task_named(task).is_loss(self._nodes.behind(_LOSS), has_copies):
            raise self.refused(f"returns a loss that is not the one of {task}")

    def check_slopes(self) -> None:
        """Check that the slopes are those of the loss in logits that are linear in something, and nothing else."""
        if not self._nodes.behind({"slopes"}, {"logits"}).is_slope_of_tokens("slopes", "logits"):
            raise self.refused("returns slopes that are not those of the loss")


def _size(text: str) -> float:
    return int(text) if _SIZE.fullmatch(text) else math.inf


def _shown(node: onnx_pb2.Node) -> str:
    return repr(f"{node.domain}.{node.op_type}"[:64] if node.domain else node.op_type[:64])
