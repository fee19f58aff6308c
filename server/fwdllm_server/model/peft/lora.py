"""LoRA (Hu et al. 2021) with its variants: which of A, B and a core R between them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.constants import DUMMY_TARGET_MODULES, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from torch.nn import functional

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import BasesKind
from fwdllm_server.model.architecture import linear_modules
from fwdllm_server.model.peft.bases import Bases, bases_of
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import inside, select

# Query and value projections of architectures that PEFT has no default for; ModernBERT has them in one.
_MORE_DEFAULT_TARGETS = {"distilbert": ["q_lin", "v_lin"], "albert": ["query", "value"], "modernbert": ["Wqkv"]}


class AWithCore(nn.Module):
    """LoRA's A followed by a trainable core: R A instead of A; the adapter file gets the product.

    ``weight`` is A, float32 ``[rank, in]``, ``core.weight`` R, ``[rank, rank]``, zero at first.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.core = nn.Linear(len(weight), len(weight), bias=False)
        nn.init.zeros_(self.core.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` → ``[..., rank]``."""
        y: Tensor = self.core(functional.linear(x, self.weight))
        return y


def lora(request: Request) -> Wrapped:
    """Trains A and B of every target."""
    model, _ = _wrap(request, request.spec.bases)
    return Wrapped(model, [p for _, layer in _layers(model) for p in (*_part(layer, "A"), *_part(layer, "B"))])


def lora_fa(request: Request) -> Wrapped:
    """LoRA-FA (Zhang et al. 2023): trains B, with A as it starts."""
    model, _ = _wrap(request, request.spec.bases)
    return Wrapped(model, [p for _, layer in _layers(model) for p in _part(layer, "B")])


def lora_xs(request: Request) -> Wrapped:
    """LoRA-XS (Bałazy et al. 2024): trains R in B R A, with A and B fixed to bases of the module."""
    model, bases = _wrap(request, request.spec.bases or "weights")
    for path, layer in _layers(model):
        layer.lora_A["default"] = AWithCore(bases[path].inputs)
        layer.lora_B["default"].weight.data.copy_(bases[path].outputs)
    return Wrapped(model, [layer.lora_A["default"].core.weight for _, layer in _layers(model)])


def _wrap(request: Request, kind: BasesKind | None) -> tuple[PeftModel, Mapping[str, Bases]]:
    """LoRA on every target, B zero and A along the bases, or random without ``kind``; and the bases by target."""
    base, spec = request.base, request.spec
    candidates = [name for name in linear_modules(base) if not inside(name, request.saved)]
    targets = select(base, candidates, spec.targets or _default_targets(base), spec.layers)
    bases = {} if kind is None else bases_of(base, targets, kind, spec.rank, request.sample)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=targets or DUMMY_TARGET_MODULES,
        modules_to_save=list(request.saved),
    )
    model = get_peft_model(base, config)
    for path, layer in _layers(model):
        if path in bases:
            layer.lora_A["default"].weight.data.copy_(bases[path].inputs)
    return model, bases


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """PEFT's LoRA layers by the path of their target."""
    base: Any = model.get_base_model()
    return ((path, module) for path, module in base.named_modules() if isinstance(module, LoraLayer))


def _part(layer: Any, part: str) -> Iterator[nn.Parameter]:
    return layer.get_submodule(f"lora_{part}").parameters()  # type: ignore[no-any-return]


def _default_targets(base: Any) -> list[str]:
    config = base.config.get_text_config()
    for table in (TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, _MORE_DEFAULT_TARGETS):
        if config.model_type in table:
            return list(table[config.model_type])
    names = sorted({name.rpartition(".")[2] for name in linear_modules(base)})
    raise BadInputError(f"PEFT knows no targets for {config.model_type!r}; set targets, from {', '.join(names)}")
