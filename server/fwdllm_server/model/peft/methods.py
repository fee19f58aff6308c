"""PEFT wraps the frozen classifier: the methods by name, and what they have in common."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import cast

import torch
from peft import PeftModel
from torch import nn

from fwdllm_server.config.peft_spec import INSTALLED_METHODS, PeftSpec
from fwdllm_server.model.architecture import head_name, is_language_model
from fwdllm_server.model.peft.bitfit import bitfit
from fwdllm_server.model.peft.bottleneck import bottleneck
from fwdllm_server.model.peft.ia3 import ia3
from fwdllm_server.model.peft.lora import lora, lora_fa, lora_xs
from fwdllm_server.model.peft.method import Method, Request
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.peft.side import side

METHODS: Mapping[str, Method] = {
    "lora": lora,
    "lora-fa": lora_fa,
    "lora-xs": lora_xs,
    "adapter": bottleneck,
    "bitfit": bitfit,
    "ia3": ia3,
    "side": side,
}


def apply_peft(base: nn.Module, spec: PeftSpec, seed: int, sample: TextSample | None = None) -> PeftModel:
    """Put the method of ``spec`` on ``base``, and a trainable head unless it is a language model's.

    The function stays the same at first.

    ``seed`` fixes what starts at random; ``sample`` is looked at for bases from activations. Only the tensors of θ
    require gradients. ``base`` itself is changed.

    :raises BadInputError: an unknown target, a layer that the model does not have, a method that does not fit the
        model, or no texts where they are needed.
    """
    head = head_name(base)
    # Modules the checkpoint lacks (DistilBERT's pre_classifier, poolers) stay frozen at their random start, but the
    # adapter must hold them to be the same model elsewhere.
    made: Sequence[str] = getattr(base, "newly_made", ())
    trains_head = not is_language_model(base)
    saved = [*([head] if trains_head else []), *(name for name in made if name.split(".")[0] != head)]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers by a name that 5.23 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # It sees by itself that GPT-2's matrices are transposed.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        torch.manual_seed(seed)
        model, trained = _method(spec.method)(Request(base, spec, saved, sample))
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    if trains_head:
        model.get_base_model().get_submodule(head).modules_to_save.requires_grad_(True)
    model.eval()
    return model


def _method(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    (entry,) = entry_points(group=INSTALLED_METHODS, name=name)
    return cast(Method, entry.load())
