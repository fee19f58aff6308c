"""A small network beside a frozen model that generates (decision 0027): it corrects the last state of each token.

What it reads are the states at the token at which the next one is predicted, at several depths, on their principal
directions; what it adds lies in the principal directions of the loss's slopes, u = Wᵀ softmax(z) − W[y]. Both are those
of held-out rows, and frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn
from torch.nn import functional

from fwdllm_client.data.dataset import IGNORED, Dataset
from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import head_name, layer_stack
from fwdllm_server.model.modeling_fwdllm import TokenSide, TokenSideSizes, add_token_side, unit_states
from fwdllm_server.model.peft.method import Request, Wrapped

_BATCH = 8
_LEAST_TOKENS = 2


class _Tokens(NamedTuple):
    """Of tokens to be predicted: the states by depth, ``[depths, tokens, hidden]``, and the slopes."""

    states: Tensor
    slopes: Tensor


def token_side_of(base: nn.Module) -> TokenSide | None:
    """Return the side modules in ``base``, those that are trained if PEFT has wrapped them; None if it has none."""
    found = [module for module in base.modules() if isinstance(module, TokenSide)]
    return found[-1] if found else None


def token_side(request: Request) -> Wrapped:
    """Trains the network, half as wide as the ``rank``; the principal directions are those of the sample's completions.

    :raises BadInputError: there are no completions, or the model's scores are not linear in its last state.
    """
    base: Any = request.base
    rows = None if request.sample is None else request.sample.completions
    if rows is None or int(rows.predicted.sum()) < _LEAST_TOKENS:
        raise BadInputError('the method "side" needs held-out completions to find principal directions, and has none')
    config = base.config.get_text_config()
    layers = config.num_hidden_layers
    sizes = TokenSideSizes(
        layers=sorted({round(layers / 3), round(2 * layers / 3)} & set(range(layers))),
        stack=layer_stack(base),
        output=head_name(base),
        hidden=config.hidden_size,
        directions=min(request.spec.rank, config.hidden_size),
        width=max(1, request.spec.rank // 2),
        slopes=min(request.spec.rank, config.hidden_size),
    )
    if not isinstance(base.get_submodule(sizes["output"]), nn.Linear):
        raise _not_linear(base)
    base.config.side = sizes
    add_token_side(base, sizes)
    _fit(base, rows)
    peft_config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=[*request.saved, "side"])
    model: Any = get_peft_model(base, peft_config)
    side = model.get_base_model().side.modules_to_save["default"]
    trained = (side.down, side.up, side.straight)
    return Wrapped(model, [parameter for module in trained for parameter in module.parameters()])


@torch.no_grad()
def _fit(base: Any, rows: Dataset) -> None:
    """Means and principal directions of the states, at variance 1 for the largest of a depth, and of the slopes."""
    side: TokenSide = base.side
    width, depths, tokens = side.sizes["hidden"], len(side.sizes["layers"]) + 1, 0
    total = torch.zeros(depths, width, dtype=torch.float64)
    second = torch.zeros(depths, width, width, dtype=torch.float64)
    slopes = torch.zeros(width, width, dtype=torch.float64)
    for batch in _tokens(base, rows):
        states, u = unit_states(batch.states).double(), batch.slopes.double()
        total, tokens = total + states.sum(dim=1), tokens + len(u)
        second += states.transpose(1, 2) @ states
        slopes += u.T @ u
    mean = total / tokens
    values, vectors = _principal(second / tokens - mean[:, :, None] * mean[:, None, :], side.sizes["directions"])
    side.compression.mean.copy_(mean)
    side.compression.directions.copy_(vectors / values[:, :1, None].clamp(min=1e-12).sqrt())
    # Not centred: the mean slope is what all rows have in common, and to be learnt first.
    _, vectors = _principal(slopes / tokens, side.sizes["slopes"])
    side.basis.copy_(vectors.T)


def _principal(second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalues, descending, and their vectors as columns, whose signs no machine chooses."""
    values, vectors = torch.linalg.eigh(second)
    largest = vectors[..., -count:].flip(-1)
    signs = torch.sign(largest.gather(-2, largest.abs().argmax(dim=-2, keepdim=True)))
    return values[..., -count:].flip(-1), largest * signs


def _tokens(base: Any, rows: Dataset) -> Iterator[_Tokens]:
    """Yield the tokens to be predicted of a few rows at a time."""
    output = base.get_submodule(head_name(base))
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _BATCH)):
        is_text = np.arange(int(rows.lengths[part].max())) < rows.lengths[part, None]
        ids = np.zeros(is_text.shape, dtype=np.int64)
        ids[is_text] = np.concatenate([rows.token_ids[rows.offsets[row] : rows.offsets[row + 1]] for row in part])
        places, wanted = rows.targets(part).transpose(2, 0, 1)
        of_row, at = np.nonzero(wanted != IGNORED)
        where = torch.from_numpy(of_row), torch.from_numpy(places[of_row, at])
        mask = torch.from_numpy(is_text.astype(np.int64))
        scores = base(input_ids=torch.from_numpy(ids), attention_mask=mask, use_cache=False).logits[where]
        states = torch.stack([state[where] for state in base.side_tap.states])
        linear = functional.linear(states[-1], output.weight, getattr(output, "bias", None))
        if not torch.allclose(scores, linear, rtol=1e-3, atol=1e-3):
            raise _not_linear(base)
        probabilities = torch.softmax(scores, dim=-1)
        probabilities[torch.arange(len(at)), torch.from_numpy(wanted[of_row, at])] -= 1
        yield _Tokens(states, probabilities @ output.weight)


def _not_linear(base: nn.Module) -> BadInputError:
    return BadInputError(
        f'the method "side" needs scores that are the output matrix times the last state, and those of '
        f"{type(base).__name__} are not; choose another model or method"
    )
