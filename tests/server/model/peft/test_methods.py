"""What every method has in common, and LoRA: which modules it sits on, what is trained, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from server.model.conftest import LABELS, MODELS, load_theta, save_model, spec_of

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import LAYER_METHODS, METHOD_KEYS, MethodName, PeftSpec
from fwdllm_server.model.load import load_base
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.trainable import initial_theta, trainable_layout


def layout_of(source: str, spec: PeftSpec, pooling: str = "model"):
    return trainable_layout(apply_peft(load_base(source, LABELS, pooling), spec, seed=0))


def test_layout_names_peft_tensors_then_head(bert_source: str) -> None:
    layout = layout_of(bert_source, PeftSpec(rank=2, layers=[-1]))
    attention = "base_model.model.bert.encoder.layer.2.attention.self"
    assert [(spec.name, spec.shape, spec.block) for spec in layout.tensors] == [
        (f"{attention}.query.lora_A.weight", (2, 32), "peft"),
        (f"{attention}.query.lora_B.weight", (32, 2), "peft"),
        (f"{attention}.value.lora_A.weight", (2, 32), "peft"),
        (f"{attention}.value.lora_B.weight", (32, 2), "peft"),
        ("base_model.model.classifier.weight", (3, 32), "head"),
        ("base_model.model.classifier.bias", (3,), "head"),
    ]
    assert list(layout.blocks) == ["peft", "head"]


@pytest.mark.parametrize(
    ("layers", "expected"), [(None, {0, 1, 2}), ([0], {0}), ([-2, -1], {1, 2}), ([2, -1], {2}), ([], set())]
)
def test_layers_choose_transformer_layers(bert_source: str, layers: list[int] | None, expected: set[int]) -> None:
    layout = layout_of(bert_source, PeftSpec(layers=layers), "mean")
    found = {int(spec.name.split("layer.")[1].split(".")[0]) for spec in layout.tensors if spec.block == "peft"}
    assert found == expected


@pytest.mark.parametrize("name", list(MODELS))
def test_every_architecture_has_default_targets_and_one_head(name: str, tmp_path: Path) -> None:
    layout = layout_of(save_model(name, tmp_path), PeftSpec(), MODELS[name][0])
    layers = 1 if name == "albert" else 3
    targets = 1 if name == "modernbert" else 2
    assert sum("lora_B" in spec.name for spec in layout.tensors) == targets * layers
    assert {spec.name.split(".")[2] for spec in layout.tensors if spec.block == "head"} == {
        "score" if name == "llama" else "classifier"
    }


def test_lora_starts_without_effect_and_is_seeded(bert_source: str) -> None:
    models = [apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(), seed=seed) for seed in (1, 1, 2)]
    layout = trainable_layout(models[0])
    first, same, other = (initial_theta(model, layout) for model in models)
    assert (first == same).all()
    assert (first != other).any()
    parts = layout.unpack(first)
    assert all((value == 0).all() for name, value in parts.items() if "lora_B" in name or "classifier" in name)
    assert not models[0].training


def test_seeding_leaves_the_global_generator_alone(bert_source: str) -> None:
    state = torch.get_rng_state()
    apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(), seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_every_method_trains_its_tensors_and_the_head(bert_source: str, method: MethodName) -> None:
    both, head = layout_of(bert_source, spec_of("bert", method)), layout_of(bert_source, PeftSpec(layers=[]))
    assert list(both.blocks) == ["peft", "head"]
    assert [spec for spec in both.tensors if spec.block == "head"] == list(head.tensors)
    assert {int(spec.name.split("layer.")[1].split(".")[0]) for spec in both.tensors if spec.block == "peft"} == {1, 2}


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_no_layer_leaves_the_head(bert_source: str, method: MethodName) -> None:
    assert list(layout_of(bert_source, PeftSpec(method=method, layers=[])).blocks) == ["head"]


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_theta_goes_in_and_out_of_the_model(bert_source: str, method: MethodName) -> None:
    model = apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(method=method), seed=1)
    layout = trainable_layout(model)
    theta = initial_theta(model, layout) + 1
    load_theta(model, layout, theta)
    assert (initial_theta(model, layout) == theta).all()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == layout.size


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PeftSpec(layers=[3]), r"no layer 3: the model has 3, numbered 0 to 2 or -3 to -1"),
        (PeftSpec(layers=[-4]), r"no layer -4: the model has 3"),
        (PeftSpec(targets=["querry"]), r"no module 'querry' to adapt; did you mean query\?"),
        (
            PeftSpec(targets=["query", "q_proj"]),
            r"no module 'q_proj' to adapt; the model has .*dense, key, query, value",
        ),
        (PeftSpec(targets=["classifier"]), r"no module 'classifier' to adapt"),
        (PeftSpec(targets=["key"], layers=[]), None),
    ],
)
def test_wrong_targets_and_layers(bert_source: str, spec: PeftSpec, message: str | None) -> None:
    base = load_base(bert_source, LABELS, "model")
    if message is None:
        assert list(trainable_layout(apply_peft(base, spec, seed=0)).blocks) == ["head"]
        return
    with pytest.raises(BadInputError, match=message):
        apply_peft(base, spec, seed=0)


def test_spec_refuses_unknown_options() -> None:
    with pytest.raises(ValidationError):
        PeftSpec.model_validate({"method": "lora", "dropout": 0.1})
    with pytest.raises(ValidationError):
        PeftSpec(rank=0)


@pytest.mark.parametrize("method", METHOD_KEYS)
def test_spec_refuses_what_the_method_does_not_read(method: MethodName) -> None:
    values = {"rank": 4, "alpha": 8.0, "bases": "weights"}
    for key, value in values.items():
        if key in METHOD_KEYS[method]:
            PeftSpec.model_validate({"method": method, key: value})
        else:
            with pytest.raises(ValidationError, match=f"{key} does nothing with the method '{method}'; leave it out"):
                PeftSpec.model_validate({"method": method, key: value})
