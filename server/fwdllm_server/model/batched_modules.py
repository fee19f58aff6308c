"""Batched modules: they take their trainable weights from θ, one copy per perturbation, instead of holding them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.ia3 import IA3Layer
from torch import Tensor, nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout
from fwdllm_server.model.trainable import saved_parameters


@dataclass
class ThetaInputs:
    """The θ inputs of the pass under way by block, float32 ``[P, block size]``; all batched modules read one."""

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


class BatchedLinear(nn.Module):
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


class BatchedShift(nn.Module):
    """A module of which only the bias is trained, with P biases: ``[N, ..., out]`` as by :class:`BatchedLinear`."""

    def __init__(self, original: nn.Module, tensors: Mapping[str, ThetaTensor]) -> None:
        super().__init__()
        self._original = original
        self._bias = tensors["bias"]

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ..., in]`` → ``[N, ..., out]``."""
        frozen: Any = self._original.bias
        y: Tensor = self._original(x)
        return _for_each_copy(torch.add, y, self._bias.copies() - frozen)


class BatchedIa3(nn.Module):
    """PEFT's (IA)³ layer with P vectors."""

    def __init__(self, original: IA3Layer, tensors: Mapping[str, ThetaTensor]) -> None:
        super().__init__()
        self._base: nn.Module = original.base_layer
        self._scales_input: bool = original.is_feedforward
        (self._vector,) = tensors.values()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ..., in]`` → ``[N, ..., out]``."""
        vectors = self._vector.copies().flatten(1)
        if self._scales_input:
            y: Tensor = self._base(_for_each_copy(torch.mul, x, vectors))
            return y
        return _for_each_copy(torch.mul, self._base(x), vectors)


def _for_each_copy(operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, vectors: Tensor) -> Tensor:
    """``operation`` on every vector of ``x``, ``[N, ..., d]``, and that of its copy in ``vectors``, ``[P, d]``."""
    return operation(x.reshape(vectors.shape[0], -1, x.shape[-1]), vectors.unsqueeze(1)).reshape(x.shape)


@dataclass(frozen=True)
class BatchedModel:
    """A PEFT model whose trainable modules are batched: the model, its θ inputs, and the block of each by path."""

    model: Any
    inputs: ThetaInputs
    blocks: Mapping[str, str]


def make_batched_model(model: PeftModel, layout: Layout) -> BatchedModel:
    """Return a copy of ``model`` that reads θ from its inputs; frozen weights are shared with the original.

    :raises BadInputError: a trainable parameter belongs to a module for which there is no batched one.
    """
    inputs = ThetaInputs()
    tensors = _theta_tensors(model, layout, inputs)
    batched = copy_sharing_weights(model)
    blocks: dict[str, str] = {}
    for path, module in list(batched.named_modules()):
        own = {name: tensors[id(p)] for name, p in _own_parameters(module) if id(p) in tensors}
        if own:
            batched.set_submodule(path, _batched_of(path, module, own))
            blocks[path] = next(iter(own.values())).block
    return BatchedModel(batched, inputs, blocks)


def copy_sharing_weights(model: PeftModel) -> Any:
    """Return a copy of the modules, to be changed; parameters and buffers are those of ``model``."""
    frozen: Any = model
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*frozen.parameters(), *frozen.buffers())})


def _own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that the module itself uses; those in a dictionary are the outer module's."""
    if isinstance(module, nn.ParameterDict):
        return []
    dictionaries = [child for child in module.children() if isinstance(child, nn.ParameterDict)]
    return [pair for holder in (module, *dictionaries) for pair in holder.named_parameters(recurse=False)]


def _batched_of(path: str, module: nn.Module, own: Mapping[str, ThetaTensor]) -> nn.Module:
    """Return the batched module for a module. A further kind needs a class above and a line here."""
    if isinstance(module, nn.Linear) and len(own) == len(list(module.parameters())):
        return BatchedLinear(module, own)
    if set(own) == {"bias"}:
        return BatchedShift(module, own)
    if isinstance(module, IA3Layer):
        return BatchedIa3(module, own)
    raise BadInputError(
        f"cannot perturb {path} ({type(module).__name__}): only whole linear modules, biases and (IA)³; choose others"
    )


def _theta_tensors(model: PeftModel, layout: Layout, inputs: ThetaInputs) -> dict[int, ThetaTensor]:
    """Where every trainable parameter, by identity, lies in the θ input of its block."""
    parameters = saved_parameters(model)
    return {
        id(parameters[spec.name]): ThetaTensor(inputs, spec.block, start - layout.block(spec.block).start, spec.shape)
        for spec, start in zip(layout.tensors, layout.offsets, strict=True)
    }
