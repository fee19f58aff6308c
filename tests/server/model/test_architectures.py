"""Every architecture that is said to work does, with the presets that most jobs use; for others it is said why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server.model import conftest
from server.model.conftest import (
    LABELS,
    MODELS,
    VOCABULARY,
    batch,
    by_block,
    load_theta,
    prepare,
    run_stages,
    save_model,
)
from transformers import (
    CamembertConfig,
    CamembertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.faults import SUPPORTED
from fwdllm_server.model.load import load_base
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.trainable import trainable_layout

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "eos_token_id": 0}
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0}
MORE: dict[str, Callable[[], Any]] = {
    "camembert": lambda: CamembertForMaskedLM(CamembertConfig(**_SIZES)),
    "deberta-v2": lambda: DebertaV2ForMaskedLM(
        DebertaV2Config(**_SIZES, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
    ),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**_SIZES, embedding_size=16)),
    "mobilebert": lambda: MobileBertForMaskedLM(
        MobileBertConfig(
            **_SIZES | {"initializer_range": 0.1},
            embedding_size=16,
            intra_bottleneck_size=32,
            num_feedforward_networks=2,
        )
    ),
    "mpnet": lambda: MPNetForMaskedLM(MPNetConfig(**_SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, bos_token_id=0)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GROUPED)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**_GROUPED)),
}
GROWING: dict[str, Callable[[], Any]] = {
    "dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**_GROUPED, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    ),
    "longrope": lambda: Phi3ForCausalLM(
        Phi3Config(
            **_GROUPED,
            original_max_position_embeddings=32,
            rope_parameters=_LONG | {"rope_theta": 1e4, "original_max_position_embeddings": 32},
        )
    ),
}
DEFAULT = PeftSpec(method="lora-fa", layers=[])
# From weights: transformers rebuilds GPT-2's and Qwen2's tokenizers its own way, which then know no word of the texts.
UPPER = PeftSpec(method="lora-fa", rank=4, alpha=4.0, bases="weights", targets=["query", "key"], layers=[-1])


@pytest.fixture
def save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[], Any]], str]:
    def save_made(make: Callable[[], Any]) -> str:
        monkeypatch.setitem(conftest.MODELS, "made", ("model", make))
        return save_model("made", tmp_path / "model")

    return save_made


def check_same_as_torch(source: str, spec: PeftSpec, folder: Path) -> None:
    """The exported stages compute what the model itself does."""
    prepared = prepare(source, "layer-means", spec, folder)
    assert list(prepared.layout.blocks) == (["head"] if spec.layers == [] else ["peft", "head"])
    feeds, theta = batch(6, 9), prepared.theta(1)
    _, found = run_stages(prepared, feeds, by_block(prepared.layout, theta))
    load_theta(prepared.model, prepared.layout, theta[0])
    with torch.no_grad():
        text = {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask")}
        expected = prepared.model(**text).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# An export each, some seconds: nothing less shows that an architecture works.
@pytest.mark.parametrize("name", list(MORE))
def test_the_presets_take_every_architecture(
    name: str, save: Callable[[Callable[[], Any]], str], tmp_path: Path
) -> None:
    source = save(MORE[name])
    head_alone = apply_peft(load_base(source, LABELS, "layer-means"), DEFAULT, 0)
    assert list(trainable_layout(head_alone).blocks) == ["head"]
    check_same_as_torch(source, UPPER, tmp_path / "upper-layers")


@pytest.mark.parametrize("name", ["mpnet", "camembert", "mobilebert", "smollm3", "phi3"])
def test_methods_know_what_to_adapt_where_peft_does_not(name: str, save: Callable[[Callable[[], Any]], str]) -> None:
    source = save(MORE[name])
    for method, least in (("lora", 2), ("ia3", 4)):
        layout = trainable_layout(apply_peft(load_base(source, LABELS, "mean"), PeftSpec(method=method), 0))
        adapted = {spec.name.split(".lora_")[0] for spec in layout.tensors if spec.block == "peft"}
        assert len(adapted) >= least


def test_what_is_said_to_work_is_tried() -> None:
    """The other half is in every test of the exported models."""
    tried = {model_type(make) for make in MORE.values()} | {model_type(make) for _, make in MODELS.values()}
    assert tried == set(SUPPORTED)


def model_type(make: Callable[[], Any]) -> str:
    with torch.device("meta"):
        return str(make().config.model_type)


@pytest.mark.parametrize("kind", list(GROWING))
def test_positions_that_grow_with_the_text_are_those_of_short_ones(
    kind: str, save: Callable[[Callable[[], Any]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(GROWING[kind])
    check_same_as_torch(source, DEFAULT, tmp_path / "bundle")
    monkeypatch.setattr(conftest, "MAX_TOKENS", 41)
    with pytest.raises(BadInputError, match=rf"rope_type '{kind}' .* set max_tokens to (40|32) or less"):
        prepare(source, "mean", DEFAULT, tmp_path / "long")


def test_a_model_without_such_modules_says_what_it_has(save: Callable[[Callable[[], Any]], str]) -> None:
    made = XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
    source = save(lambda: XLNetLMHeadModel(made))
    with pytest.raises(BadInputError, match=r"no module 'query' to adapt; the model has layer_1, layer_2; name some"):
        apply_peft(load_base(source, LABELS, "mean"), PeftSpec(), 0)
    assert list(trainable_layout(apply_peft(load_base(source, LABELS, "mean"), DEFAULT, 0)).blocks) == ["head"]
