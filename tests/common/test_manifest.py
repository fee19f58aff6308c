import json
from dataclasses import replace

import pytest
from common.bundles import MANIFEST, file
from common.runs import LAYOUT

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout
from fwdllm_common.manifest import MANIFEST_FORMAT, BundleFile, Manifest
from fwdllm_common.prompt import Prompt

SHA256 = "ab" * 32


def changed(path, value):
    """The manifest's bytes with one JSON value changed."""
    tree = json.loads(MANIFEST.to_bytes())
    *parents, last = path
    node = tree
    for key in parents:
        node = node[key]
    node[last] = value
    return json.dumps(tree).encode()


def test_a_manifest_makes_the_round_trip():
    again = Manifest.from_bytes(MANIFEST.to_bytes())
    assert again == MANIFEST
    assert again.to_bytes() == MANIFEST.to_bytes()


def test_a_prompt_makes_it_too_and_is_left_out_where_there_is_none():
    prompted = replace(MANIFEST, prompt=Prompt("« {text} », c'était"))
    assert Manifest.from_bytes(prompted.to_bytes()) == prompted
    assert "prompt" not in json.loads(MANIFEST.to_bytes())


def test_a_task_makes_it_too_and_is_left_out_of_classifiers():
    """Bundles from before there were tasks keep their hash."""
    asking = replace(MANIFEST, labels=(), task="question-answering")
    assert Manifest.from_bytes(asking.to_bytes()) == asking
    assert Manifest.from_bytes(MANIFEST.to_bytes()).task == "classification"
    assert "task" not in json.loads(MANIFEST.to_bytes())


def test_class_weights_make_it_too_and_are_left_out_where_there_are_none():
    weighted = replace(MANIFEST, class_weights=tuple(0.1 + index for index in range(len(MANIFEST.labels))))
    assert Manifest.from_bytes(weighted.to_bytes()) == weighted
    assert "class_weights" not in json.loads(MANIFEST.to_bytes())


@pytest.mark.parametrize("weight", [0.0, -1.0, 2e6, float("nan")])
def test_class_weights_are_positive_and_one_a_label(weight):
    with pytest.raises(BadInputError, match="class weights are not above 0"):
        replace(MANIFEST, class_weights=(1.0,) * (len(MANIFEST.labels) - 1) + (weight,))
    with pytest.raises(BadInputError, match="one a label"):
        replace(MANIFEST, class_weights=(1.0,) * (len(MANIFEST.labels) + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "question-answering"}, "question-answering has no labels"),
        ({"labels": ()}, "at least two labels are needed"),
        ({"labels": (), "task": "translation"}, "the task 'translation' is not known here; update fwdllm"),
    ],
)
def test_labels_are_classification_s(changes, message):
    with pytest.raises(BadInputError, match=message):
        replace(MANIFEST, **changes)


def test_features_make_it_too_and_are_left_out_where_there_are_none():
    beside = replace(MANIFEST, features=12)
    assert Manifest.from_bytes(beside.to_bytes()) == beside
    assert (beside.head_width, MANIFEST.head_width) == (12, MANIFEST.stages[-2].width)
    assert "features" not in json.loads(MANIFEST.to_bytes())


@pytest.mark.parametrize("features", [-1, 1 << 30])
def test_features_are_a_width(features):
    with pytest.raises(BadInputError, match=f"{features} features are not 0 to"):
        replace(MANIFEST, features=features)


def test_features_go_with_tokens():
    prefix, *blocks = MANIFEST.stages
    with pytest.raises(BadInputError, match="the frozen stages give none"):
        replace(MANIFEST, features=12, stages=(replace(prefix, per_token=False), *blocks))


def test_a_file_of_two_stages_is_listed_once():
    names = [file.name for file in MANIFEST.files]
    assert names == ["tokenizer.json", "prefix.onnx", "weights.bin", "peft.onnx", "head.onnx"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a/", "./a", "..\\x", "C:x", "a\0b", "a\nb"]
)
def test_a_name_that_is_not_a_plain_file_name_is_refused(name):
    with pytest.raises(BadInputError, match="not a plain file name"):
        BundleFile(name, SHA256, 1)


@pytest.mark.parametrize(
    "sha256",
    ["", SHA256[:-1], SHA256 + "ab", SHA256.upper(), "../" * 21 + "x", "g" * 64, list(SHA256)],
    ids=lambda value: f"{type(value).__name__} of {len(value)}",
)
def test_what_is_not_a_hash_is_refused(sha256):
    """Hashes name files in the device's cache."""
    with pytest.raises(BadInputError, match="no SHA-256"):
        BundleFile("a", sha256, 1)


@pytest.mark.parametrize("size", [-1, 1.5, float("nan"), "1", None])
def test_what_is_not_a_size_is_refused(size):
    with pytest.raises(BadInputError, match="size"):
        BundleFile("a", SHA256, size)


def test_two_files_of_one_name_are_refused():
    stages = (replace(MANIFEST.stages[0], graph=replace(file("head.onnx"), sha256=SHA256)), *MANIFEST.stages[1:])
    with pytest.raises(BadInputError, match=r"'head\.onnx' is the name of two files"):
        replace(MANIFEST, stages=stages)


def test_an_unknown_stage_input_is_refused():
    with pytest.raises(BadInputError, match="unknown stage input 'logits'"):
        replace(MANIFEST.stages[1], inputs=("activation", "logits"))


@pytest.mark.parametrize(
    "change",
    [
        {"stages": ()},
        {"stages": MANIFEST.stages[:1]},
        {"stages": MANIFEST.stages[1:]},
        {"stages": MANIFEST.stages[:2]},
        {"stages": (MANIFEST.stages[0], MANIFEST.stages[2], MANIFEST.stages[1])},
        {"stages": (*MANIFEST.stages, MANIFEST.stages[2])},
        {"stages": (*MANIFEST.stages[:2], MANIFEST.stages[0], MANIFEST.stages[2])},
        {"layout": Layout(LAYOUT.tensors[::-1])},
        {"labels": ("one",)},
        {"max_tokens": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_whose_parts_do_not_fit_is_refused(change):
    with pytest.raises(BadInputError, match="manifest"):
        replace(MANIFEST, **change)


def test_another_format_is_refused_with_the_way_out():
    with pytest.raises(BadInputError, match="update fwdllm"):
        Manifest.from_bytes(changed(["format"], MANIFEST_FORMAT + 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["tokenizer", "name"], "../../bin/sh"),
        (["stages", 0, "graph", "sha256"], "/" * 64),
        (["stages", 1, "weights", "bytes"], -1),
        (["stages", 1, "inputs"], ["exec"]),
        (["layout", 1, "name"], "lora_A"),
        (["layout", 0, "shape"], [16, -20]),
        (["max_tokens"], float("inf")),
        (["labels"], None),
        (["prompt"], "no place for a text"),
        (["prompt"], 3),
        (["tokenizer", "mode"], 0o755),
    ],
    ids=str,
)
def test_what_is_refused_in_memory_is_refused_from_the_wire(path, value):
    with pytest.raises(BadInputError):
        Manifest.from_bytes(changed(path, value))
