"""(IA)³ (Liu et al. 2022): vectors that scale keys, values and the hidden units of the feed-forward part."""

from __future__ import annotations

from typing import Any

from peft import IA3Config, get_peft_model
from peft.tuners.ia3 import IA3Layer
from peft.utils.constants import (
    DUMMY_TARGET_MODULES,
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import closing_modules, linear_modules
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import chosen_layers, inside, select

# Key and value projections of architectures that PEFT has no default for; ModernBERT has them in one.
_MORE_KEYS_AND_VALUES = {"distilbert": ["k_lin", "v_lin"], "albert": ["key", "value"], "modernbert": ["Wqkv"]}


def ia3(request: Request) -> Wrapped:
    """Trains a vector of ones for every target: it scales what comes out, or what goes into a layer's last matrix.

    The last matrix reads the hidden units of the feed-forward part. Default are keys, values and last matrices.
    """
    base, spec = request.base, request.spec
    candidates = [name for name in linear_modules(base) if not inside(name, request.saved)]
    last = closing_modules(base, chosen_layers(base, spec.layers), candidates)
    if spec.targets:
        targets = select(base, candidates, spec.targets, spec.layers)
    else:
        targets = [*select(base, candidates, _keys_and_values(base), spec.layers), *last]
    config = IA3Config(
        target_modules=targets or DUMMY_TARGET_MODULES,
        feedforward_modules=[target for target in targets if target in last],
        modules_to_save=list(request.saved),
    )
    model: Any = get_peft_model(base, config)
    return Wrapped(model, [m.ia3_l["default"] for m in model.modules() if isinstance(m, IA3Layer)])


def _keys_and_values(base: Any) -> list[str]:
    config = base.config.get_text_config()
    if config.model_type in _MORE_KEYS_AND_VALUES:
        return _MORE_KEYS_AND_VALUES[config.model_type]
    if config.model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        feed_forward = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[config.model_type]
        targets = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[config.model_type]
        return [target for target in targets if target not in feed_forward]
    names = sorted({name.rpartition(".")[2] for name in linear_modules(base)})
    raise BadInputError(f"PEFT knows no targets for {config.model_type!r}; set targets, from {', '.join(names)}")
