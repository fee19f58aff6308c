"""Twins: modules that take their trainable weights from θ, one copy per perturbation, instead of holding them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout
from fwdllm_server.model.trainable import saved_parameters


@dataclass
class ThetaInputs:
    """The θ inputs of the pass under way by block, each float32 ``[P, block size]``; all twins read from one."""

    by_block: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ThetaTensor:
    """One tensor of the layout, found again in the θ input of its block."""

    inputs: ThetaInputs
    block: str
    start: int
    shape: tuple[int, ...]

    def copies(self) -> Tensor:
        """Its value in every perturbed copy, ``[P, *shape]``."""
        size = 1
        for length in self.shape:
            size *= length
        theta = self.inputs.by_block[self.block]
        return theta[:, self.start : self.start + size].reshape(-1, *self.shape)


class LinearTwin(nn.Module):
    """``nn.Linear`` with P weights: row n of N is multiplied by copy n // (N / P)."""

    def __init__(self, original: nn.Linear, tensors: Mapping[str, ThetaTensor]) -> None:
        super().__init__()
        self.in_features = original.in_features
        self.out_features = original.out_features
        self._weight = tensors["weight"]
        self._bias = tensors.get("bias")

    @property
    def weight(self) -> Tensor:
        """All copies of the weight; PEFT's LoRA layer asks for its dtype."""
        return self._weight.copies()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ..., in]`` → ``[N, ..., out]``."""
        weight = self._weight.copies()
        y = x.reshape(weight.shape[0], -1, self.in_features) @ weight.transpose(1, 2)
        if self._bias is not None:
            y = y + self._bias.copies().unsqueeze(1)
        return y.reshape(*x.shape[:-1], self.out_features)


# A further kind of module with trainable parameters needs a class like LinearTwin and an entry here.
TWINS: dict[type[nn.Module], type[LinearTwin]] = {nn.Linear: LinearTwin}


@dataclass(frozen=True)
class TwinModel:
    """A PEFT model whose trainable modules are twins: the model, its θ inputs, and the block of every twin by path."""

    model: Any
    inputs: ThetaInputs
    twins: Mapping[str, str]


def make_twin_model(model: PeftModel, layout: Layout) -> TwinModel:
    """A copy of ``model`` that reads θ from its inputs; frozen weights are shared with the original.

    :raises BadInputError: a trainable parameter belongs to a module for which there is no twin.
    """
    inputs = ThetaInputs()
    tensors = _theta_tensors(model, layout, inputs)
    frozen: Any = model
    twin: Any = copy.deepcopy(model, {id(tensor): tensor for tensor in (*frozen.parameters(), *frozen.buffers())})
    twins: dict[str, str] = {}
    for path, module in list(twin.named_modules()):
        own = {name: tensors[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in tensors}
        if not own:
            continue
        if type(module) not in TWINS or len(own) != len(list(module.parameters(recurse=False))):
            raise BadInputError(
                f"cannot perturb {path} ({type(module).__name__}): only whole linear modules so far; use other targets"
            )
        parent, _, name = path.rpartition(".")
        twin.get_submodule(parent)._modules[name] = TWINS[type(module)](module, own)
        twins[path] = next(iter(own.values())).block
    return TwinModel(twin, inputs, twins)


def _theta_tensors(model: PeftModel, layout: Layout, inputs: ThetaInputs) -> dict[int, ThetaTensor]:
    """Where every trainable parameter, by identity, lies in the θ input of its block."""
    parameters = saved_parameters(model)
    return {
        id(parameters[spec.name]): ThetaTensor(inputs, spec.block, start - layout.block(spec.block).start, spec.shape)
        for spec, start in zip(layout.tensors, layout.offsets, strict=True)
    }
