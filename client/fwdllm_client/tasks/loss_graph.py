"""A graph from the coordinator, asked by tasks whether what it returns is their loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import numpy as np

from fwdllm.graph import onnx_pb2

_FLOAT32, _INT64 = 1, 7
_SOFTPLUS_THRESHOLD = 20.0
"""torch's own: e⁻²⁰ is below the precision of float32 beside 20."""
_PRODUCTS = {("", "MatMul"), ("com.microsoft", "MatMulNBits")}


class LossGraph:
    """The nodes of ``graph``, whose inputs are called ``inputs``; every value is defined once.

    With ``nodes`` it is these of them alone.
    """

    def __init__(
        self, graph: onnx_pb2.Graph, inputs: Collection[str], nodes: Sequence[onnx_pb2.Node] | None = None
    ) -> None:
        self._graph = graph
        self._inputs = frozenset(inputs)
        self._nodes = list(graph.node) if nodes is None else nodes

    def behind(self, values: Collection[str], stops: Collection[str] = ()) -> LossGraph:
        """Return the part of the graph on which ``values`` depend, looking no further than ``stops``."""
        seen, pending = set(stops), list(values)
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending += self._makers[name].input if name in self._makers else ()
        needed = seen - set(stops)
        kept = [node for node in self._nodes if needed.intersection(node.output)]
        return LossGraph(self._graph, {*self._inputs, *stops}, kept)

    def scores_behind(self, value: str, *operators: str, axes: Collection[int], is_expanded: bool = False) -> str:
        """Return the value whose log-softmax is looked up at the labels to give ``value``; "" if there is none.

        ``operators`` follow the lookup, the last one first; ``axes`` are the two indices of the axis of the softmax.
        Labels are ``is_expanded`` where they are looked up for several copies of θ.
        """
        for operator in operators:
            node = self.maker(value, operator)
            if node is None:
                return ""
            value = node.input[0]
        lookup = self.maker(value, "GatherElements")
        scores = lookup and self.maker(lookup.input[0], "LogSoftmax")
        if lookup is None or scores is None:
            return ""
        is_of_labels = self._is_expanded_labels if is_expanded else self._is_labels
        is_along = axis_of(lookup, 0) in axes and axis_of(scores, -1) in axes
        return scores.input[0] if is_along and is_of_labels(lookup.input[1]) else ""

    def is_squared_error(self, value: str, scores: str) -> bool:
        """Whether ``value`` is the square of each row's one score less its label, which goes nowhere else."""
        product = self.maker(value, "Mul")
        if product is None or product.input[0] != product.input[1] or self.times_read(product.input[0]) != 2:
            return False
        difference = self.maker(product.input[0], "Sub")
        one = difference and self.maker(difference.input[0], "Squeeze")
        return (
            difference is not None
            and one is not None
            and one.input[0] == scores
            and self.integers(one.input[1]) in ([1], [-1])
            and difference.input[1] == "labels"
            and self.times_read("labels") == 1
        )

    def is_mean_binary_cross_entropy(self, value: str, scores: str) -> bool:
        """Whether ``value`` is the mean over each row's labels of softplus(score) − score × label.

        Above 20 softplus may be its argument. The labels go nowhere else.
        """
        mean = self.maker(value, "ReduceMean")
        entropy = mean and self.maker(mean.input[0], "Sub")
        chosen = entropy and self.maker(entropy.input[0], "Where")
        product = entropy and self.maker(entropy.input[1], "Mul")
        is_large = chosen and self.maker(chosen.input[0], "Greater")
        softplus = chosen and self.maker(chosen.input[2], "Softplus")
        return bool(
            mean is not None
            and chosen
            and product
            and is_large
            and softplus
            and self.integers(mean.input[1]) in ([1], [-1])
            and [*product.input] == [scores, "labels"]
            and chosen.input[1] == softplus.input[0] == is_large.input[0] == scores
            and self.floats(is_large.input[1]) == [_SOFTPLUS_THRESHOLD]
            and self.times_read("labels") == 1
        )

    def is_mean_over_tokens(self, value: str, scores: str) -> bool:
        """Whether ``value`` is minus the mean over each row's tokens of the log-softmax of ``scores`` at them.

        Labels are pairs of a position and a token, negative where there is none. The tokens go nowhere else; the
        positions may, as the device itself chooses them.
        """
        tokens = self._indices_of_mean(value, scores)
        parts = list(self.readers("labels"))
        return (
            tokens != ""
            and all(each.op_type == "Gather" and axis_of(each, 0) == 2 and each.input[0] == "labels" for each in parts)
            and [each.output[0] for each in parts if self.integers(each.input[1]) != [0]] == [tokens]
        )

    def is_mean_over_labelled(self, value: str, scores: str) -> bool:
        """Whether ``value`` is minus the mean of the log-softmax of ``scores`` at each row's labels of tokens.

        Labels are negative where a token has none, and go nowhere else.
        """
        return self._indices_of_mean(value, scores) == "labels"

    def _indices_of_mean(self, value: str, scores: str) -> str:
        """Return the indices at which ``value`` is minus each row's mean log-softmax of ``scores``; empty if it is not.

        Where an index is negative there is none. Nothing else reads the indices.
        """
        mean = self._behind(value, "Neg", "Div")
        total = mean and self._behind(mean.input[0], "ReduceSum", "Where")
        count = mean and self._behind(mean.input[1], "Max", "ReduceSum", "Cast")
        lookup = total and self._behind(total.input[1], "Squeeze", "GatherElements")
        softmax = lookup and self._behind(lookup.input[0], "LogSoftmax")
        index = lookup and self._behind(lookup.input[1], "Unsqueeze", "Clip")
        is_index = total and self.maker(total.input[0], "GreaterOrEqual")
        if not (total and count and lookup and softmax and index and is_index):
            return ""
        indices = index.input[0]
        is_mean = (
            softmax.input[0] == scores
            and axis_of(softmax, -1) in (2, -1)
            and axis_of(lookup, 0) in (2, -1)
            and [*is_index.input] == [indices, *index.input[1:]]
            and self.integers(is_index.input[1]) == [0]
            and self.times_read(indices) == 2
            and count.input[0] == total.input[0]
            and self.times_read(total.input[0]) == 2
            and self.origins(total.input[2]) == set()
        )
        return indices if is_mean else ""

    def is_slope_of_tokens(self, value: str, scores: str) -> bool:
        """Whether ``value`` is constants times the softmax of ``scores`` less 1 at each token of the labels.

        Labels are pairs of a position and a token; nothing else of them is read.
        """
        products = 0
        while (node := self._product(value)) is not None:
            value, products = node.input[0], products + 1
        difference = self._behind(value, "Sub")
        softmax = difference and self._behind(difference.input[0], "Softmax")
        is_token = difference and self._behind(difference.input[1], "Cast", "Equal")
        if not (products and softmax and is_token):
            return False
        tokens = [node for name in is_token.input if (node := self._behind(name, "Unsqueeze", "Gather")) is not None]
        numbers = [name for name in is_token.input if self.origins(name) == set()]
        return (
            softmax.input[0] == scores
            and axis_of(softmax, -1) in (2, -1)
            and len(tokens) == len(numbers) == 1
            and tokens[0].input[0] == "labels"
            and axis_of(tokens[0], 0) == 2
            and self.integers(tokens[0].input[1]) == [1]
            and self.times_read("labels") == 1
        )

    def _product(self, value: str) -> onnx_pb2.Node | None:
        """Return the node that multiplies something with constants to give ``value``, and who else reads it not."""
        node = self._makers.get(value)
        if node is None or (node.domain, node.op_type) not in _PRODUCTS or self.times_read(value) > 1:
            return None
        return node if all(self.origins(name) == set() for name in node.input[1:]) else None

    def _behind(self, value: str, *operators: str) -> onnx_pb2.Node | None:
        """Return the node at the end of a chain of operators, the last one first; what is inside goes nowhere else."""
        node = None
        for operator in operators:
            value = node.input[0] if node is not None else value
            node = self.maker(value, operator)
            if node is None or self.times_read(value) > 1:
                return None
        return node

    def maker(self, value: str, operator: str) -> onnx_pb2.Node | None:
        """Return the node that computes ``value`` if its operator is ONNX's own ``operator``, else None."""
        node = self._makers.get(value)
        return node if node is not None and (node.domain, node.op_type) == ("", operator) else None

    def readers(self, value: str) -> Iterator[onnx_pb2.Node]:
        """Yield the nodes that read ``value``."""
        return (node for node in self._nodes if value in node.input)

    def times_read(self, value: str) -> int:
        """Count the places where ``value`` is read."""
        return sum(list(node.input).count(value) for node in self._nodes)

    def integers(self, value: str) -> list[int]:
        """Return the values of the int64 constant ``value``; empty if it is not such a constant."""
        tensor = self._constants.get(value)
        if tensor is None or tensor.data_type != _INT64 or tensor.external_data:
            return []
        return np.frombuffer(tensor.raw_data, dtype="<i8").tolist() if tensor.raw_data else list(tensor.int64_data)

    def floats(self, value: str) -> list[float]:
        """Return the values of the float32 constant ``value``; empty if it is not such a constant."""
        tensor = self._constants.get(value)
        if tensor is None or tensor.data_type != _FLOAT32 or tensor.external_data:
            return []
        found: list[float] = np.frombuffer(tensor.raw_data, dtype="<f4").tolist()
        return found

    def origins(self, value: str, of_sizes: bool = True) -> set[str]:
        """Return the inputs of the graph on which ``value`` depends, with ``of_sizes`` also by their sizes alone."""
        found, seen, pending = set[str](), set[str](), [value]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self._inputs:
                found.add(name)
            elif name in self._makers and (of_sizes or not self._is_size(name)):
                pending.extend(self._makers[name].input)
        return found

    def _is_labels(self, value: str) -> bool:
        """Whether it is the labels with a further axis, and they go nowhere else."""
        node = self.maker(value, "Unsqueeze")
        return (
            node is not None and node.input[0] == "labels" and self.times_read("labels") == self.times_read(value) == 1
        )

    def _is_expanded_labels(self, value: str) -> bool:
        """Whether it is each row's label, repeated for copies of θ; how often, sizes of inputs say and no values."""
        node = self.maker(value, "Expand")
        if node is None or self.times_read(value) != 1 or not self._is_labels(node.input[0]):
            return False
        axes = self.integers(self._makers[node.input[0]].input[1])
        return axes in ([1, 2], [-2, -1]) and self.origins(node.input[1], of_sizes=False) == set()

    @cached_property
    def _makers(self) -> dict[str, onnx_pb2.Node]:
        return {name: node for node in self._nodes for name in node.output}

    @cached_property
    def _constants(self) -> dict[str, onnx_pb2.Tensor]:
        found = {tensor.name: tensor for tensor in self._graph.initializer}
        made = ((node, each) for node in self._nodes if node.op_type == "Constant" for each in node.attribute)
        return found | {node.output[0]: each.t for node, each in made if each.name == "value"}

    def _is_size(self, value: str) -> bool:
        """Whether it is the shape of an input of the graph."""
        node = self.maker(value, "Shape")
        return node is not None and node.input[0] in self._inputs


def axis_of(node: onnx_pb2.Node, default: int) -> int:
    """Return the node's attribute ``axis``."""
    return next((each.i for each in node.attribute if each.name == "axis"), default)
