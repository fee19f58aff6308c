"""Bottleneck adapters (Houlsby et al. 2019), where Pfeiffer et al. (2021) put them: one at the end of a layer."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from fwdllm_server.model.architecture import closing_modules, linear_modules, norm_modules
from fwdllm_server.model.modeling_fwdllm import AdaptedModule, insert_bottlenecks
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import chosen_layers, inside, select


def bottleneck_widths(base: nn.Module) -> dict[str, int]:
    """Return what :func:`insert_bottlenecks` put into ``base``: widths by the path of the module."""
    return {path: module.width for path, module in base.named_modules() if isinstance(module, AdaptedModule)}


def bottleneck(request: Request) -> Wrapped:
    """Trains a bottleneck of width ``rank`` at the end of each chosen layer, or behind the targets.

    PEFT has no such method, but it trains and saves any module whole; whoever loads the adapter inserts them first.
    """
    base, spec = request.base, request.spec
    candidates = [name for name in (*linear_modules(base), *norm_modules(base)) if not inside(name, request.saved)]
    if spec.targets:
        hosts = select(base, candidates, spec.targets, spec.layers)
    else:
        hosts = closing_modules(base, chosen_layers(base, spec.layers), candidates)
    insert_bottlenecks(base, dict.fromkeys(hosts, spec.rank))
    paths = [f"{host}.adapter" for host in hosts]
    config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=[*request.saved, *paths])
    model: Any = get_peft_model(base, config)
    wrappers = [model.get_base_model().get_submodule(path).modules_to_save for path in paths]
    return Wrapped(model, [parameter for wrapper in wrappers for parameter in wrapper.parameters()])
