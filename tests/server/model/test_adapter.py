"""The adapter a user gets is the trained model, through PEFT's own loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.numpy import load_file
from server.model.conftest import LABELS, MAX_TOKENS, Prepared, batch, by_block, load_theta, run_stages, spec_of

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import LAYER_METHODS, MethodName, PeftSpec
from fwdllm_server.model.adapter import ADAPTER_FILE, write_adapter
from fwdllm_server.model.adapter_template import Reading, load_base_of, save_adapter_template, tokenizer_for
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.pooling import centre, projected_width
from fwdllm_server.model.trainable import initial_theta, trainable_layout


def logits_of(model: Any) -> torch.Tensor:
    feeds = {name: torch.from_numpy(value) for name, value in batch(4, 9).items()}
    with torch.no_grad():
        return model(input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"]).logits


def save_template(model: Any, source: str, folder: Path) -> None:
    tokenizer = tokenizer_for(source, load_tokenizer_file(source), MAX_TOKENS)
    save_adapter_template(model, tokenizer, Reading(MAX_TOKENS), folder)


def round_trip(model: Any, source: str, theta: Any, folder: Path) -> Any:
    save_template(model, source, folder / "template")
    write_adapter(folder / "template", trainable_layout(model), theta, folder / "out")
    return PeftModel.from_pretrained(load_base_of(folder / "out"), folder / "out").eval()


def test_adapter_round_trip(prepared: Prepared, tmp_path: Path) -> None:
    """The loaded adapter computes what the devices' stages compute."""
    theta = prepared.theta(1)
    loaded = round_trip(prepared.model, prepared.source, theta[0], tmp_path)
    _, expected = run_stages(prepared, batch(4, 9), by_block(prepared.layout, theta))
    torch.testing.assert_close(logits_of(loaded), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    assert abs(expected).max() > 1e-3


@pytest.mark.parametrize("method", [method for method in LAYER_METHODS if method != "adapter"])
def test_the_adapter_needs_nothing_but_peft(bert_source: str, method: MethodName, tmp_path: Path) -> None:
    """PEFT has no bottlenecks; all else loads into the checkpoint as it is, and PEFT knows every tensor in the file."""
    model = apply_peft(load_base(bert_source, LABELS, "mean"), spec_of("bert", method), seed=9)
    theta = initial_theta(model, trainable_layout(model)) + 0.1
    round_trip(model, bert_source, theta, tmp_path)
    loaded = PeftModel.from_pretrained(load_base(bert_source, LABELS, "mean"), tmp_path / "out").eval()
    assert set(load_file(tmp_path / "out" / ADAPTER_FILE)) <= set(
        get_peft_model_state_dict(loaded, save_embedding_layers=False)
    )
    load_theta(model, trainable_layout(model), theta)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-5, atol=1e-5)


def test_the_adapter_of_a_head_alone(bert_source: str, tmp_path: Path) -> None:
    model = apply_peft(load_base(bert_source, LABELS, "mean"), PeftSpec(layers=[]), seed=9)
    theta = initial_theta(model, trainable_layout(model)) + 0.1
    loaded = round_trip(model, bert_source, theta, tmp_path)
    load_theta(model, trainable_layout(model), theta)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_adapter_holds_what_the_checkpoint_lacks(prepared_models: Callable[[str], Prepared], tmp_path: Path) -> None:
    """DistilBERT's pre_classifier is random at first and frozen: the adapter brings it along."""
    prepared = prepared_models("distilbert")
    base = load_base(prepared.source, LABELS, "model")
    torch.nn.init.normal_(base.pre_classifier.weight)
    template = tmp_path / "template"
    save_template(prepared.model, prepared.source, template)
    loaded: Any = PeftModel.from_pretrained(base, template).eval()
    theta = prepared.theta(1)[0]
    before = initial_theta(prepared.model, prepared.layout)
    load_theta(loaded, prepared.layout, theta)
    load_theta(prepared.model, prepared.layout, theta)
    try:
        assert torch.equal(logits_of(loaded), logits_of(prepared.model))
    finally:
        load_theta(prepared.model, prepared.layout, before)


def test_wrong_folders(prepared_bert: Prepared, tmp_path: Path) -> None:
    theta = initial_theta(prepared_bert.model, prepared_bert.layout)
    with pytest.raises(BadInputError, match="no adapter template"):
        write_adapter(tmp_path, prepared_bert.layout, theta, tmp_path / "out")


def test_template_of_another_layout(prepared_bert: Prepared, bert_source: str, tmp_path: Path) -> None:
    other = apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(rank=3), seed=0)
    save_template(other, bert_source, tmp_path)
    theta = initial_theta(prepared_bert.model, prepared_bert.layout)
    with pytest.raises(BadInputError, match="the adapter template has no tensor"):
        write_adapter(tmp_path, prepared_bert.layout, theta, tmp_path / "out")


def test_the_adapter_of_projected_features_brings_their_basis(bert_source: str, tmp_path: Path) -> None:
    labels = [str(label) for label in range(200)]
    base = load_base(bert_source, labels, "layer-means", most_projected=70)
    texts = {name: torch.from_numpy(batch(80, 9, seed=1)[name]) for name in ("input_ids", "attention_mask")}
    centre(base, [texts])
    assert base.projection.basis.shape == (96, 70)
    projected = base.features(base.states(**texts), texts["attention_mask"]).detach()
    spread = projected.var(dim=0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all()
    model = apply_peft(base, PeftSpec(layers=[]), seed=9)
    layout = trainable_layout(model)
    assert layout.size == 200 * 71
    theta = initial_theta(model, layout) + np.linspace(-1, 1, layout.size, dtype=np.float32)
    loaded = round_trip(model, bert_source, theta, tmp_path)
    load_theta(model, layout, theta)
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize(
    ("labels", "width", "most", "directions"),
    [(4, 1152, 511, 0), (150, 1152, 511, 108), (150, 1152, 80, 80), (150, 1152, 40, 0), (1024, 1152, 511, 64)],
)
def test_features_are_projected_where_classes_are_many(labels: int, width: int, most: int, directions: int) -> None:
    assert projected_width(labels, width, most) == directions
