"""BitFit (Ben Zaken et al. 2022): the biases that the model already has."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import linear_modules, norm_modules
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import chosen_layers, inside, select


def bitfit(request: Request) -> Wrapped:
    """Trains the biases of all matrices and norms in the chosen layers, or of the targets alone.

    PEFT has no such method, but its LoRA without targets saves and loads all biases of a model.

    :raises BadInputError: there is no bias.
    """
    base, spec = request.base, request.spec
    with_bias = [
        name
        for name in (*linear_modules(base), *norm_modules(base))
        if getattr(base.get_submodule(name), "bias", None) is not None and not inside(name, request.saved)
    ]
    if not with_bias and spec.layers != []:
        raise BadInputError(f"{type(base).__name__} has no biases to train; choose another method")
    if spec.targets:
        chosen = select(base, with_bias, spec.targets, spec.layers)
    else:
        layers = chosen_layers(base, spec.layers)
        chosen = [name for name in with_bias if inside(name, layers)]
    biases: list[Any] = [base.get_submodule(name).bias for name in chosen]
    config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=list(request.saved), bias="all")
    return Wrapped(get_peft_model(base, config), biases)
