"""BitFit: which biases are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server.model.conftest import LABELS, batch, by_block, prepare, run_stages, save_model

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.load import load_base
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.trainable import trainable_layout


def biases(source: str, **options: Any) -> list[str]:
    layout = trainable_layout(apply_peft(load_base(source, LABELS, "model"), PeftSpec(method="bitfit", **options), 0))
    return [spec.name.removeprefix("base_model.model.bert.") for spec in layout.tensors if spec.block == "peft"]


def test_all_biases_of_the_layers(bert_source: str) -> None:
    assert biases(bert_source, layers=[0]) == [
        f"encoder.layer.0.{module}.bias"
        for module in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
    ]
    assert len(biases(bert_source)) == 3 * 8


def test_targets_are_matrices_and_norms_also_outside_the_layers(bert_source: str) -> None:
    assert biases(bert_source, targets=["LayerNorm"], layers=[2]) == [
        "encoder.layer.2.attention.output.LayerNorm.bias",
        "encoder.layer.2.output.LayerNorm.bias",
    ]
    assert biases(bert_source, targets=["embeddings.LayerNorm"]) == ["embeddings.LayerNorm.bias"]


def test_a_bias_below_the_layers_is_perturbed(bert_source: str, tmp_path: Path) -> None:
    prepared = prepare(bert_source, "mean", PeftSpec(method="bitfit", targets=["embeddings.LayerNorm"]), tmp_path)
    feeds, theta = batch(4, 9), prepared.theta(2)
    theta[1, prepared.layout.block("head").slice] = theta[0, prepared.layout.block("head").slice]
    same, _ = run_stages(prepared, feeds, by_block(prepared.layout, theta[[0, 0]]))
    loss, _ = run_stages(prepared, feeds, by_block(prepared.layout, theta))
    np.testing.assert_array_equal(loss[:2], same[:2])
    assert (np.abs(loss[2:] - same[2:]) > 1e-4).all()


def test_models_without_biases(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="LlamaForSequenceClassification has no biases to train"):
        apply_peft(load_base(save_model("llama", tmp_path), LABELS, "model"), PeftSpec(method="bitfit"), 0)


def test_only_the_biases_move(bert_source: str) -> None:
    model: Any = apply_peft(load_base(bert_source, LABELS, "mean"), PeftSpec(method="bitfit"), 0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.rpartition(".")[2] for name in trained if "classifier" not in name} == {"bias"}
    assert not any("original_module" in name or "embeddings" in name for name in trained)
    assert isinstance(model.get_base_model().backbone.encoder.layer[0].output.dense, torch.nn.Linear)
