"""PEFT wraps the frozen classifier: which modules get an adapter, how it starts, what is trained."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import head_name, layer_stack, linear_modules
from fwdllm_server.model.peft_spec import PeftSpec

# Query and value projections of architectures that PEFT has no default for; ModernBERT has them in one.
_MORE_DEFAULT_TARGETS = {"distilbert": ["q_lin", "v_lin"], "albert": ["query", "value"], "modernbert": ["Wqkv"]}


def apply_peft(base: nn.Module, spec: PeftSpec, seed: int) -> PeftModel:
    """``base`` with the adapter of ``spec`` and a trainable head; it starts as the same function as ``base``.

    ``seed`` fixes LoRA's random A. Only the tensors of θ require gradients. ``base`` itself is changed.

    :raises BadInputError: an unknown target, or a layer that the model does not have.
    """
    head = head_name(base)
    # Modules the checkpoint lacks (DistilBERT's pre_classifier, poolers) stay frozen at their random start, but the
    # adapter must hold them to be the same model elsewhere.
    made: Sequence[str] = getattr(base, "newly_made", ())
    also_saved = [name for name in made if name.split(".")[0] != head]
    targets = _target_modules(base, spec, exclude=also_saved)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=targets or DUMMY_TARGET_MODULES,
        modules_to_save=[head, *also_saved],
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers by a name that 5.23 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        model: Any = get_peft_model(base, config)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            _require_grad(module, ("lora_B",) if spec.method == "lora-fa" else ("lora_A", "lora_B"))
    model.base_model.model.get_submodule(head).modules_to_save.requires_grad_(True)
    return model.eval()


def _require_grad(tuner: nn.Module, parts: Sequence[str]) -> None:
    for part in parts:
        tuner.get_submodule(part).requires_grad_(True)


def _target_modules(base: nn.Module, spec: PeftSpec, exclude: Sequence[str]) -> list[str]:
    """Full paths of the modules that get an adapter."""
    candidates = [name for name in linear_modules(base) if not _inside(name, exclude)]
    wanted = spec.targets or _default_targets(base)
    for target in wanted:
        if not any(_matches(name, target) for name in candidates):
            raise BadInputError(f"no module {target!r} to adapt; {_suggest(target, candidates)}")
    matched = [name for name in candidates if any(_matches(name, target) for target in wanted)]
    if spec.layers is None:
        return matched
    stack = layer_stack(base)
    count = len(list(base.get_submodule(stack).children()))
    chosen = [f"{stack}.{index}" for index in _layer_indices(spec.layers, count)]
    return [name for name in matched if _inside(name, chosen)]


def _default_targets(base: nn.Module) -> list[str]:
    config: Any = base.config
    for table in (TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, _MORE_DEFAULT_TARGETS):
        if config.model_type in table:
            return list(table[config.model_type])
    names = sorted({name.rpartition(".")[2] for name in linear_modules(base)})
    raise BadInputError(f"PEFT knows no targets for {config.model_type!r}; set targets, from {', '.join(names)}")


def _layer_indices(layers: Sequence[int], count: int) -> set[int]:
    for layer in layers:
        if not -count <= layer < count:
            raise BadInputError(f"no layer {layer}: the model has {count}, numbered 0 to {count - 1} or -{count} to -1")
    return {layer % count for layer in layers}


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _inside(name: str, parents: Sequence[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _suggest(target: str, candidates: Sequence[str]) -> str:
    names = sorted({name.rpartition(".")[2] for name in candidates})
    near = difflib.get_close_matches(target, names)
    return f"did you mean {' or '.join(near)}?" if near else f"the model has {', '.join(names)}"
