"""(IA)³: which vectors there are and which side of a matrix they scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server.model.conftest import LABELS, MODELS, save_model

from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.load import load_base
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.trainable import trainable_layout

KEYS_AND_VALUES = {
    "bert": {"key", "value"},
    "bert-mean": {"key", "value"},
    "bert-layer-means": {"key", "value"},
    "distilbert": {"k_lin", "v_lin"},
    "roberta": {"key", "value"},
    "albert": {"key", "value"},
    "modernbert": {"Wqkv"},
    "llama": {"k_proj", "v_proj"},
}


def vectors(source: str, pooling: Any = "model", **options: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by target; PEFT keeps vectors of outputs as columns and those of inputs as rows."""
    model = apply_peft(load_base(source, LABELS, pooling), PeftSpec(method="ia3", **options), 0)
    return {
        spec.name.removeprefix("base_model.model.").removesuffix(".ia3_l"): spec.shape
        for spec in trainable_layout(model).tensors
        if spec.block == "peft"
    }


@pytest.mark.parametrize("name", list(MODELS))
def test_keys_values_and_hidden_units(name: str, tmp_path: Path) -> None:
    found = vectors(save_model(name, tmp_path), MODELS[name][0])
    layers = 1 if name == "albert" else 3
    outputs = [path for path, shape in found.items() if shape[1] == 1]
    hidden = [path for path, shape in found.items() if shape == (1, 48)]
    assert {path.rpartition(".")[2] for path in outputs} == KEYS_AND_VALUES[name]
    assert len(outputs) == layers * len(KEYS_AND_VALUES[name])
    assert len(hidden) == layers
    assert len(found) == len(outputs) + len(hidden)


def test_targets(bert_source: str) -> None:
    """The last matrix of a layer is scaled on its input, any other on its output."""
    assert vectors(bert_source, targets=["output.dense", "query"], layers=[-1]) == {
        "bert.encoder.layer.2.attention.self.query": (32, 1),
        "bert.encoder.layer.2.attention.output.dense": (32, 1),
        "bert.encoder.layer.2.output.dense": (1, 48),
    }
