"""Directions in which a matrix module acts, to start LoRA from: out of its weight, or out of what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import BasesKind
from fwdllm_server.model.peft.sample import TextSample

# Directions in which nothing is seen on the sample are not blown up beyond this share of the strongest.
_LEAST_POWER = 1e-6


class Bases(NamedTuple):
    """Of one module: ``inputs``, float32 ``[rank, in]``, a direction a row; ``outputs``, ``[out, rank]``, a column."""

    inputs: Tensor
    outputs: Tensor


def bases_of(
    base: nn.Module, paths: Sequence[str], kind: BasesKind, rank: int, sample: TextSample | None
) -> dict[str, Bases]:
    """Bases of the modules at ``paths``.

    * ``weights``: of the rank-``rank`` part U Σ Vᵀ of the weight, Vᵀ and U Σ (LoRA-XS, Bałazy et al. 2024).
    * ``activations``: the principal directions of the module's inputs on the sample, scaled so that a coordinate has
      mean square 1, and those of its outputs at length 1. Not centred: the mean is a direction like any other.

    :raises BadInputError: ``rank`` is larger than a module's width, or ``activations`` without texts.
    """
    for path in paths:
        narrowest = min(_matrix(base, path).shape)
        if rank > narrowest:
            raise BadInputError(f"rank {rank} is above the width of {path!r}, {narrowest}; lower it")
    if kind == "weights":
        return {path: _of_weight(_matrix(base, path), rank) for path in paths}
    if sample is None:
        raise _no_texts()
    return {path: _of_powers(*powers, rank) for path, powers in _powers(base, paths, sample).items()}


def _of_weight(matrix: Tensor, rank: int) -> Bases:
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    return Bases(right[:rank].contiguous(), (left[:, :rank] * singular[:rank]).contiguous())


def _of_powers(inputs: Tensor, outputs: Tensor, rank: int) -> Bases:
    power, directions = _strongest(inputs, rank)
    power = power.clamp(min=float(power[0]) * _LEAST_POWER)
    return Bases((directions / power.sqrt()).T.float().contiguous(), _strongest(outputs, rank)[1].float().contiguous())


def _strongest(second_moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalues, descending, and their vectors as columns."""
    values, vectors = torch.linalg.eigh(second_moment)
    return values.flip(0)[:rank], vectors.flip(1)[:, :rank]


def _powers(base: nn.Module, paths: Sequence[str], sample: TextSample) -> dict[str, tuple[Tensor, Tensor]]:
    """Second moments, float64, of every module's inputs ``[in, in]`` and outputs ``[out, out]`` over the tokens."""
    powers = {}
    for path in paths:
        outs, ins = _matrix(base, path).shape
        powers[path] = (torch.zeros(ins, ins, dtype=torch.float64), torch.zeros(outs, outs, dtype=torch.float64))
    is_text = torch.empty(0)
    vectors = dict.fromkeys(paths, 0)

    def watch(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            for total, states in zip(powers[path], (args[0], output), strict=True):
                rows = states[is_text] if states.ndim == is_text.ndim + 1 else states
                total += (rows.T @ rows).double()
            vectors[path] += len(rows)

        return hook

    hooks = [base.get_submodule(path).register_forward_hook(watch(path)) for path in paths]
    call: Any = base
    with torch.no_grad():
        for batch in sample.batches():
            is_text = batch["attention_mask"].bool()
            call(**batch)
    for hook in hooks:
        hook.remove()
    if not all(vectors.values()):
        raise _no_texts()
    return {path: (ins / vectors[path], outs / vectors[path]) for path, (ins, outs) in powers.items()}


def _no_texts() -> BadInputError:
    return BadInputError("bases = 'activations' needs texts to pass through the model, and there are none")


def _matrix(base: nn.Module, path: str) -> Tensor:
    """Return the weight of a matrix module as ``[out, in]``."""
    module: Any = base.get_submodule(path)
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight
