"""A coordinator that wants to read its devices' texts, with harmless graphs: only a job's own loss ever runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import LABELS, ROWS, make_dataset, make_theta, write_bundle
from onnx import TensorProto, helper, numpy_helper

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.audit import audit, audit_stage
from fwdllm_client.engine.tiny_bundle import BUNDLE_FOLDER
from fwdllm_common.directions import Directions
from fwdllm_common.errors import NotAllowedError
from fwdllm_common.manifest import BundleFile, Manifest

PREFIX, PEFT, HEAD = range(3)


class Forged:
    """The tiny bundle, whose graphs are changed as a coordinator likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = write_bundle(folder).manifest

    def graph(self, stage: int) -> onnx.ModelProto:
        return onnx.load(self.folder / self.manifest.stages[stage].graph.name)

    def write(self, stage: int, model: onnx.ModelProto, **changes: object) -> None:
        path = self.folder / self.manifest.stages[stage].graph.name
        path.write_bytes(model.SerializeToString())
        stages = list(self.manifest.stages)
        stages[stage] = replace(stages[stage], graph=BundleFile.of(path), **changes)
        self.manifest = replace(self.manifest, stages=tuple(stages))

    def head_with_loss(self, *nodes: onnx.NodeProto, **constants: np.ndarray) -> None:
        """Another last stage, whose loss ``nodes`` make."""
        model = self.graph(HEAD)
        del model.graph.node[-1]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        self.write(HEAD, model)

    def reading_tokens(self, stage: int, *nodes: onnx.NodeProto, **constants: np.ndarray) -> None:
        """A stage that reads tokens too, and does something with them."""
        model = self.graph(stage)
        tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])
        model.graph.input.append(tokens)
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        self.write(stage, model, inputs=(*self.manifest.stages[stage].inputs, "input_ids"))

    def with_features(self, *nodes: onnx.NodeProto) -> None:
        """Have the last frozen stage give features, and the last one add them to the logits of every copy of θ."""
        prefix = self.graph(PREFIX)
        prefix.graph.node.append(node("ReduceMean", ["next_activation", "tokens"], ["features"], keepdims=0))
        prefix.graph.initializer.append(numpy_helper.from_array(ONE, "tokens"))
        prefix.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", LABELS]))
        self.write(PREFIX, prefix)
        head = self.graph(HEAD)
        del head.graph.node[:], head.graph.input[:]
        head.graph.node.extend([node("Add", ["activation", "features"], ["logits"]), *(nodes or LOSS_OF_COPIES)])
        constants = {"one": ONE, "two": np.array([2]), "both": np.array([1, 2]), "first": np.array([0, 1])}
        head.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        for name in ("activation", "features", "theta"):
            head.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        head.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["rows"]))
        self.write(HEAD, head, inputs=("activation", "features", "theta", "labels"))
        self.manifest = replace(self.manifest, features=LABELS)

    def audit(self) -> None:
        audit(self.folder, self.manifest)


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    return Forged(tmp_path)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


ONE = np.array([1])
CROSS_ENTROPY = (
    node("LogSoftmax", ["logits"], ["scores"], axis=-1),
    node("Unsqueeze", ["labels", "one"], ["places"]),
    node("GatherElements", ["scores", "places"], ["found"], axis=1),
    node("Squeeze", ["found", "one"], ["alone"]),
    node("Neg", ["alone"], ["loss"]),
)

# The same for each copy of θ.
LOSS_OF_COPIES = (
    node("Shape", ["theta"], ["copies"], start=0, end=1),
    node("Concat", ["one", "copies", "one"], ["times"], axis=0),
    node("LogSoftmax", ["logits"], ["scores"], axis=-1),
    node("Unsqueeze", ["labels", "both"], ["column"]),
    node("Expand", ["column", "times"], ["places"]),
    node("GatherElements", ["scores", "places"], ["found"], axis=2),
    node("Squeeze", ["found", "two"], ["alone"]),
    node("Neg", ["alone"], ["loss"]),
)


def test_what_the_coordinator_exports_is_run(forged):
    forged.audit()
    audit(BUNDLE_FOLDER, Manifest.from_bytes((BUNDLE_FOLDER / "manifest.json").read_bytes()))


def test_a_cross_entropy_in_single_operators_is_the_tasks_loss(forged):
    forged.head_with_loss(*CROSS_ENTROPY, one=ONE)
    forged.audit()


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ReduceSum", ["logits", "one"], ["loss"], keepdims=0)],
        [node("Cast", ["labels"], ["loss"], to=TensorProto.FLOAT)],
        [node("ReduceMean", ["activation", "one"], ["loss"], keepdims=0)],
        # The right operators on what is not called the logits, over the wrong axis, or of labels that are shifted.
        [node("LogSoftmax", ["activation"], ["scores"], axis=-1), *CROSS_ENTROPY[1:]],
        [node("LogSoftmax", ["logits"], ["scores"], axis=0), *CROSS_ENTROPY[1:]],
        [
            node("Add", ["labels", "one"], ["next"]),
            CROSS_ENTROPY[0],
            node("Unsqueeze", ["next", "one"], ["places"]),
            *CROSS_ENTROPY[2:],
        ],
        [*CROSS_ENTROPY[:-1], node("Exp", ["alone"], ["loss"])],
        [node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["loss"], reduction="sum")],
        [node("SoftmaxCrossEntropyLoss", ["logits", "labels", "b_start"], ["loss"], reduction="none")],
    ],
    ids=["sum", "label", "feature", "other-scores", "other-axis", "other-labels", "exponential", "summed", "weighted"],
)
def test_another_loss_is_refused(forged, nodes):
    forged.head_with_loss(*nodes, one=ONE)
    with pytest.raises(NotAllowedError, match="returns a loss that is not the one of classification"):
        forged.audit()


def test_the_loss_of_every_copy_is_the_tasks_loss(forged):
    forged.with_features()
    forged.audit()


@pytest.mark.parametrize(
    ("at", "nodes"),
    [
        # How often a label is repeated would say something of a text, or of the label itself.
        (0, [node("Cast", ["features"], ["copies"], to=TensorProto.INT64)]),
        (0, [node("NonZero", ["activation"], ["some"]), node("Shape", ["some"], ["copies"], start=1)]),
        (0, [node("Identity", ["labels"], ["copies"])]),
        # Labels of other rows, or repeated by other means.
        (3, [node("Unsqueeze", ["labels", "first"], ["column"])]),
        (4, [node("Tile", ["column", "times"], ["places"])]),
        (2, [node("LogSoftmax", ["logits"], ["scores"], axis=1)]),
        (7, [node("Exp", ["alone"], ["loss"])]),
        (7, [node("ReduceMean", ["features", "one"], ["loss"], keepdims=0)]),
    ],
    ids=["values", "data-sizes", "labels", "other-rows", "tiled", "other-axis", "exponential", "feature"],
)
def test_another_loss_of_copies_is_refused(forged, at, nodes):
    forged.with_features(*LOSS_OF_COPIES[:at], *nodes, *LOSS_OF_COPIES[at + 1 :])
    with pytest.raises(NotAllowedError, match="returns a loss that is not the one of classification"):
        forged.audit()


def test_a_loss_of_copies_is_for_chains_with_features(forged):
    forged.with_features()
    forged.manifest = replace(forged.manifest, features=0)
    with pytest.raises(NotAllowedError, match="returns other values than next_activation"):
        audit_stage(forged.folder, forged.manifest, PREFIX)
    with pytest.raises(NotAllowedError, match="reads features, which only the last stage of a chain with features may"):
        audit_stage(forged.folder, forged.manifest, HEAD)


def test_features_are_for_the_last_stage(forged):
    forged.with_features()
    model = forged.graph(PEFT)
    model.graph.input.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", LABELS]))
    forged.write(PEFT, model, inputs=(*forged.manifest.stages[PEFT].inputs, "features"))
    with pytest.raises(NotAllowedError, match="reads features, which only the last stage"):
        forged.audit()


def test_logits_that_depend_on_the_labels_are_refused(forged):
    model = forged.graph(HEAD)
    reshape = next(each for each in model.graph.node if each.output[0] == "logits")
    reshape.output[0] = "honest"
    model.graph.node.insert(
        len(model.graph.node) - 1, node("Cast", ["labels"], ["label_numbers"], to=TensorProto.FLOAT)
    )
    model.graph.node.insert(len(model.graph.node) - 1, node("Unsqueeze", ["label_numbers", "w_axis"], ["column"]))
    model.graph.node.insert(len(model.graph.node) - 1, node("Add", ["honest", "column"], ["logits"]))
    forged.write(HEAD, model)
    with pytest.raises(NotAllowedError, match="a loss that is not"):
        forged.audit()


def test_a_loss_that_is_a_token_never_runs(forged, tmp_path):
    """Its scalars would be the first token of each row, times what θ says."""
    forged.reading_tokens(
        HEAD,
        node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMax", ["numbers", "last"], ["largest"], keepdims=0),
        last=np.array([1]),
    )
    forged.head_with_loss(
        node("ReduceMax", ["theta"], ["weight"], keepdims=0), node("Mul", ["largest", "weight"], ["loss"])
    )
    task = DirectionTask("head", np.arange(4, dtype=np.uint64), 1e-3, 16)
    with (
        Engine(forged.folder, forged.manifest, make_dataset(), tmp_path / "cache", 1) as engine,
        pytest.raises(NotAllowedError, match=r"'head\.onnx' reads tokens, which only the first stage may"),
    ):
        list(engine.derivatives(make_theta(forged.manifest), Directions(7), task, np.arange(ROWS)))


def test_a_later_stage_may_only_ask_which_tokens_are_padding(forged):
    forged.reading_tokens(PEFT, node("Equal", ["input_ids", "pad"], ["is_padding"]), pad=np.array(0))
    forged.audit()


@pytest.mark.parametrize(
    "reads",
    [
        node("Equal", ["input_ids", "other"], ["asked"]),
        node("Equal", ["input_ids", "input_ids"], ["asked"]),
        node("Less", ["input_ids", "other"], ["asked"]),
        node("Cast", ["input_ids"], ["asked"], to=TensorProto.FLOAT),
    ],
    ids=["another-token", "itself", "less", "cast"],
)
def test_a_later_stage_that_reads_tokens_is_refused(forged, reads):
    forged.reading_tokens(PEFT, reads, other=np.array(17))
    with pytest.raises(NotAllowedError, match="reads tokens"):
        forged.audit()


def test_labels_are_for_the_last_stage(forged):
    model = forged.graph(PEFT)
    model.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["rows"]))
    forged.write(PEFT, model, inputs=(*forged.manifest.stages[PEFT].inputs, "labels"))
    with pytest.raises(NotAllowedError, match="reads labels before the last stage"):
        forged.audit()


def _branch() -> onnx.GraphProto:
    constant = node("Constant", [], ["chosen"], value=helper.make_tensor("", TensorProto.FLOAT, [], [1.0]))
    return helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [])])


@pytest.mark.parametrize(
    ("added", "why"),
    [
        (node("If", ["yes"], ["chosen"], then_branch=_branch(), else_branch=_branch()), "has the operator 'If'"),
        (node("RandomNormal", [], ["noise"], shape=[2]), "has the operator 'RandomNormal'"),
        (node("Gelu", ["one"], ["mine"], domain="my.domain"), r"has the operator 'my\.domain\.Gelu'"),
        (node("Identity", ["one"], ["mine"], body=_branch()), "has a graph within its Identity"),
    ],
    ids=["if", "random", "own", "hidden"],
)
def test_unknown_operators_are_refused(forged, added, why):
    model = forged.graph(PREFIX)
    model.graph.node.append(added)
    forged.write(PREFIX, model)
    with pytest.raises(NotAllowedError, match=why):
        forged.audit()


def test_operators_of_its_own_are_refused(forged):
    model = forged.graph(PREFIX)
    model.functions.append(
        helper.make_function("", "Tanh", ["x"], ["y"], [node("Abs", ["x"], ["y"])], [helper.make_opsetid("", 20)])
    )
    forged.write(PREFIX, model)
    with pytest.raises(NotAllowedError, match="has functions"):
        forged.audit()


@pytest.mark.parametrize(
    ("location", "length", "why"),
    [
        ("../key.pem", "16", "outside its own weights file"),
        ("/etc/hostname", "16", "outside its own weights file"),
        ("other.data", "16", "outside its own weights file"),
        ("own.data", "32", "beyond the end"),
        ("own.data", "-1", "beyond the end"),
        ("own.data", "16", None),
    ],
)
def test_constants_come_from_the_stages_own_file(forged, location, length, why):
    model = forged.graph(PREFIX)
    model.graph.initializer.append(TensorProto(name="mine", data_type=TensorProto.FLOAT, dims=[4]))
    model.graph.initializer[-1].data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", length)):
        model.graph.initializer[-1].external_data.add(key=key, value=value)
    (forged.folder / "own.data").write_bytes(bytes(16))
    forged.write(PREFIX, model, weights=BundleFile.of(forged.folder / "own.data"))
    if why is None:
        forged.audit()
    else:
        with pytest.raises(NotAllowedError, match=why):
            forged.audit()


def test_a_constant_of_a_node_comes_from_the_graph(forged):
    model = forged.graph(PREFIX)
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="own.data")
    model.graph.node.append(node("Constant", [], ["mine"], value=value))
    forged.write(PREFIX, model)
    with pytest.raises(NotAllowedError, match="a constant in another file in its Constant"):
        forged.audit()


def test_a_value_is_made_once(forged):
    model = forged.graph(HEAD)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, LABELS), np.float32), "labels"))
    forged.write(HEAD, model)
    with pytest.raises(NotAllowedError, match="two values called 'labels'"):
        forged.audit()


def test_what_is_returned_is_what_the_contract_says(forged):
    model = forged.graph(HEAD)
    model.graph.output.append(helper.make_tensor_value_info("linear", TensorProto.FLOAT, ["rows", LABELS]))
    forged.write(HEAD, model)
    with pytest.raises(NotAllowedError, match="returns other values than logits and loss"):
        forged.audit()


def test_other_formats_of_graphs_are_refused(forged):
    stages = list(forged.manifest.stages)
    path = forged.folder / "peft.ort"
    path.write_bytes((forged.folder / "peft.onnx").read_bytes())
    stages[PEFT] = replace(stages[PEFT], graph=BundleFile.of(path))
    forged.manifest = replace(forged.manifest, stages=tuple(stages))
    with pytest.raises(NotAllowedError, match=r"'peft\.ort' is not called \.onnx"):
        forged.audit()


def test_what_is_no_graph_is_refused(forged):
    path = forged.folder / forged.manifest.stages[PEFT].graph.name
    path.write_bytes(b"\x3a\xff\xff")
    with pytest.raises(NotAllowedError, match="is not ONNX"):
        forged.audit()
