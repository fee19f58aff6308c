"""Bottlenecks: where they sit and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from server.model.conftest import LABELS, MODELS, save_model

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.load import load_base
from fwdllm_server.model.modeling_fwdllm import AdaptedModule
from fwdllm_server.model.peft.bottleneck import bottleneck_widths
from fwdllm_server.model.peft.methods import apply_peft

LAST_MODULE = {
    "bert": "bert.encoder.layer.2.output.LayerNorm",
    "bert-mean": "backbone.encoder.layer.2.output.LayerNorm",
    "bert-layer-means": "backbone.encoder.layer.2.output.LayerNorm",
    "distilbert": "distilbert.transformer.layer.2.output_layer_norm",
    "roberta": "roberta.encoder.layer.2.output.LayerNorm",
    "albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm",
    "modernbert": "model.layers.2.mlp.Wo",
    "llama": "model.layers.2.mlp.down_proj",
}


def adapted(source: str, pooling: Any = "model", **options: Any) -> Any:
    spec = PeftSpec(method="adapter", rank=5, **options)
    return apply_peft(load_base(source, LABELS, pooling), spec, seed=0).get_base_model()


@pytest.mark.parametrize("name", list(MODELS))
def test_a_bottleneck_ends_every_layer(name: str, tmp_path: Path) -> None:
    base = adapted(save_model(name, tmp_path), MODELS[name][0])
    found = bottleneck_widths(base)
    assert len(found) == (1 if name == "albert" else 3)
    assert list(found)[-1] == LAST_MODULE[name]
    assert set(found.values()) == {5}
    assert base.get_submodule(LAST_MODULE[name]).adapter.down.weight.shape == (5, 32)


@pytest.mark.parametrize(
    ("targets", "layers", "expected"),
    [
        (["output.dense"], [0], ["attention.output.dense", "output.dense"]),
        (["attention.output.LayerNorm"], [0], ["attention.output.LayerNorm"]),
        (["intermediate.dense"], [0], ["intermediate.dense"]),
    ],
)
def test_targets_are_matrices_or_norms(bert_source: str, targets: list[str], layers: list[int], expected: list[str]):
    found = bottleneck_widths(adapted(bert_source, targets=targets, layers=layers))
    assert list(found) == [f"bert.encoder.layer.0.{name}" for name in expected]


def test_unknown_target(bert_source: str) -> None:
    with pytest.raises(BadInputError, match=r"no module 'LayerNrom' to adapt; did you mean LayerNorm\?"):
        adapted(bert_source, targets=["LayerNrom"])


def test_what_a_bottleneck_adds() -> None:
    """Pfeiffer's: x + f + A(LN(x + f)) before the last norm; behind a matrix f + A(f)."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    for host in (torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)):
        module = AdaptedModule(host, 4)
        assert torch.equal(module(x), host(x))
        torch.nn.init.normal_(module.adapter.up.weight)
        down, up = module.adapter.down, module.adapter.up
        added = torch.relu(host(x) @ down.weight.T) @ up.weight.T
        expected = host(x + added) if isinstance(host, torch.nn.LayerNorm) else host(x) + added
        torch.testing.assert_close(module(x), expected)
