"""LoRA's starts: bases from weights and from activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from server.model.conftest import LABELS, MAX_TOKENS, TEXTS

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import BasesKind, MethodName, PeftSpec
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample

TARGET = "bert.encoder.layer.1.output.dense"


def lora_layer(source: str, method: MethodName, bases: BasesKind | None, rank: int = 3) -> Any:
    """PEFT's layer around a matrix of 48 inputs and 32 outputs."""
    sample = TextSample(TEXTS, load_tokenizer_file(source), MAX_TOKENS)
    spec = PeftSpec(method=method, rank=rank, bases=bases, targets=[TARGET])
    return apply_peft(load_base(source, LABELS, "model"), spec, 0, sample).get_base_model().get_submodule(TARGET)


def tokens_at_target(source: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the target and comes out of it, text by text and so without padding."""
    base: Any = load_base(source, LABELS, "model")
    inputs, outputs = [], []

    def note(_module: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        inputs.append(args[0][0])
        outputs.append(output[0])

    base.get_submodule(TARGET).register_forward_hook(note)
    for text in TEXTS:
        ids = torch.tensor([[int(word[1:]) for word in text.split()]])[:, :MAX_TOKENS]
        with torch.no_grad():
            base(input_ids=ids, attention_mask=torch.ones_like(ids))
    return torch.cat(inputs), torch.cat(outputs)


@pytest.mark.parametrize("method", ["lora", "lora-fa", "lora-xs"])
def test_activation_bases_hold_the_most_power_of_what_goes_in(bert_source: str, method: MethodName) -> None:
    a = lora_layer(bert_source, method, "activations").lora_A["default"].weight.detach()
    inputs, _ = tokens_at_target(bert_source)
    moment = inputs.T @ inputs / len(inputs)
    coordinates = inputs @ a.T
    torch.testing.assert_close(coordinates.T @ coordinates / len(inputs), torch.eye(3), rtol=1e-3, atol=1e-3)
    directions = torch.nn.functional.normalize(a, dim=1)
    held = (directions @ moment @ directions.T).trace()
    torch.testing.assert_close(held, torch.linalg.eigvalsh(moment)[-3:].sum(), rtol=1e-4, atol=0)


def test_activation_bases_of_what_comes_out(bert_source: str) -> None:
    b = lora_layer(bert_source, "lora-xs", "activations").lora_B["default"].weight.detach()
    _, outputs = tokens_at_target(bert_source)
    moment = outputs.T @ outputs / len(outputs)
    torch.testing.assert_close(b.T @ b, torch.eye(3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((b.T @ moment @ b).trace(), torch.linalg.eigvalsh(moment)[-3:].sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bases", [None, "weights"])
def test_lora_xs_starts_from_the_weights(bert_source: str, bases: BasesKind | None) -> None:
    layer = lora_layer(bert_source, "lora-xs", bases)
    a, b, weight = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.base_layer.weight
    _, singular, _ = torch.linalg.svd(weight)
    torch.testing.assert_close(torch.linalg.matrix_norm(weight - b @ a), singular[3:].norm(), rtol=1e-4, atol=0)
    assert not layer.lora_A["default"].core.weight.any()


def test_the_same_start_every_time(bert_source: str) -> None:
    for bases in ("weights", "activations"):
        first, second = (lora_layer(bert_source, "lora-fa", bases).lora_A["default"].weight for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("texts", [None, [], [""]])
def test_activations_need_texts(bert_source: str, texts: list[str] | None) -> None:
    sample = None if texts is None else TextSample(texts, load_tokenizer_file(bert_source), MAX_TOKENS)
    with pytest.raises(BadInputError, match="bases = 'activations' needs texts"):
        apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(bases="activations"), 0, sample)


def test_rank_above_the_width(bert_source: str) -> None:
    assert lora_layer(bert_source, "lora", None, rank=33).lora_A["default"].weight.shape == (33, 48)
    with pytest.raises(BadInputError, match=r"rank 33 is above the width of '.*output.dense', 32; lower it"):
        lora_layer(bert_source, "lora-xs", None, rank=33)
