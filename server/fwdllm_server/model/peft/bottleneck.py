"""Bottleneck adapters (Houlsby et al. 2019), where Pfeiffer et al. (2021) put them: one at the end of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fwdllm_server.model.architecture import closing_modules, linear_modules, norm_modules
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.targets import chosen_layers, inside, select


class Bottleneck(nn.Module):
    """``hidden`` → ``width`` → ReLU → ``hidden``; the way up starts at zero, so that nothing is added at first."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., hidden]`` → ``[..., hidden]``."""
        up: Tensor = self.up(functional.relu(self.down(x)))
        return up


class AdaptedModule(nn.Module):
    """A module and the bottleneck that reads its output and corrects the residual stream.

    Behind a matrix that means adding to its output. A norm at the end of a layer has the stream as its input: the
    correction goes there, and the norm is applied to the sum.
    """

    def __init__(self, host: nn.Module, width: int) -> None:
        super().__init__()
        self.host = host
        self.width = width
        weight: Any = host.weight
        self._is_norm = weight.ndim == 1
        self.adapter = Bottleneck(weight.shape[1 if isinstance(host, Conv1D) else 0], width)

    def forward(self, x: Tensor) -> Tensor:
        """What the host would make of ``x``, corrected; ``[..., in]`` → ``[..., hidden]``."""
        y: Tensor = self.host(x)
        correction: Tensor = self.adapter(y)
        corrected: Tensor = self.host(x + correction) if self._is_norm else y + correction
        return corrected


def insert_bottlenecks(base: nn.Module, widths: Mapping[str, int]) -> None:
    """Put a bottleneck of the given width behind each of the modules of ``base`` that ``widths`` names by path."""
    for host, width in widths.items():
        base.set_submodule(host, AdaptedModule(base.get_submodule(host), width))


def bottleneck_widths(base: nn.Module) -> dict[str, int]:
    """The inverse of :func:`insert_bottlenecks`: what was put into ``base``."""
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
