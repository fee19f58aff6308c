"""Rank-stabilised LoRA (Kalajdzievski 2023): scaled by alpha / √rank, so that a higher rank does not learn more slowly.

A is frozen at random and B trained, which halves what the directions have to search.
"""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from fwdllm_server.model.architecture import linear_modules
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import inside, select


def rslora(request: Request) -> Wrapped:
    """Wrap the frozen model by PEFT as the job's ``[peft]`` asks, and say what is trained.

    What may be trained: whole linear modules, biases, (IA)³ vectors; the export says so where it finds something else.
    """
    base, spec = request.base, request.spec
    candidates = [name for name in linear_modules(base) if not inside(name, request.saved)]
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        use_rslora=True,
        lora_dropout=0.0,
        target_modules=select(base, candidates, spec.targets or ["query", "value"], spec.layers),
        modules_to_save=list(request.saved),
    )
    model: Any = get_peft_model(base, config)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return Wrapped(model, [layer.lora_B["default"].weight for layer in layers])
