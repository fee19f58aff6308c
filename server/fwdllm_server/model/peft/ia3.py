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

from fwdllm_server.model.architecture import closing_modules, linear_modules
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import adapted, chosen_layers, inside

_KEYS_AND_VALUES = {
    model: [target for target in targets if target not in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[model]]
    for model, targets in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.items()
}
# Of architectures that PEFT has no targets for.
_ROLES = ("key", "value")


def ia3(request: Request) -> Wrapped:
    """Trains a vector of ones for every target: it scales what comes out, or what goes into a layer's last matrix.

    The last matrix reads the hidden units of the feed-forward part. Default are keys, values and last matrices.
    """
    base, spec = request.base, request.spec
    candidates = [name for name in linear_modules(base) if not inside(name, request.saved)]
    last = closing_modules(base, chosen_layers(base, spec.layers), candidates)
    targets = adapted(base, candidates, spec, _KEYS_AND_VALUES, _ROLES)
    if not spec.targets:
        targets += last
    config = IA3Config(
        target_modules=targets or DUMMY_TARGET_MODULES,
        feedforward_modules=[target for target in targets if target in last],
        modules_to_save=list(request.saved),
    )
    model: Any = get_peft_model(base, config)
    return Wrapped(model, [m.ia3_l["default"] for m in model.modules() if isinstance(m, IA3Layer)])
