"""Small modules beside a frozen model (decision 0023): attention poolings of its compressed token states.

The hidden states of a token at four depths are projected on the principal directions of unlabelled texts. A few
queries pool these numbers over a text, and a linear readout of the poolings adds to the logits of the head. Nothing of
the model itself is trained, so a device computes the states of each row once.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import is_language_model, layer_stack
from fwdllm_server.model.modeling_fwdllm import MeanPooledClassifier, SideModules, SideSizes, unit_states
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.peft.token_side import token_side

POOLINGS = 8
DIRECTIONS = 64
"""Principal directions of a depth; all, where the model is narrower."""


def side_of(base: nn.Module) -> SideModules | None:
    """Return the side modules in ``base``, those that are trained if PEFT has wrapped them; None if it has none."""
    found = [module for module in base.modules() if isinstance(module, SideModules)]
    return found[-1] if found else None


def side(request: Request) -> Wrapped:
    """Trains queries and readout; the principal directions are those of the sample.

    Of a model that generates it is :func:`token_side`.

    :raises BadInputError: the model does not pool means, or there are no texts.
    """
    base: Any = request.base
    if is_language_model(base):
        return token_side(request)
    if request.sample is None or not any(request.sample.texts):
        raise BadInputError('the method "side" needs unlabelled texts to find principal directions, and there are none')
    if not isinstance(base, MeanPooledClassifier):
        raise BadInputError('the method "side" needs [model] pooling = "layer-means" or "mean"')
    config = base.config.get_text_config()
    sizes = SideSizes(
        layers=_depths(config.num_hidden_layers),
        hidden=config.hidden_size,
        directions=min(DIRECTIONS, config.hidden_size),
        poolings=POOLINGS,
        positions=request.sample.max_tokens,
        labels=base.config.num_labels,
    )
    base.config.layers = layer_stack(base.backbone)
    _fit(base, base.add_side(sizes), request.sample)
    peft_config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=[*request.saved, "side"])
    model: Any = get_peft_model(base, peft_config)
    modules = model.get_base_model().side.modules_to_save["default"]
    return Wrapped(model, [*modules.pooling.parameters(), *modules.readout.parameters()])


def _depths(layers: int) -> list[int]:
    """Return the layers at the start and after one and two thirds of the depth."""
    return sorted({0, round(layers / 3), round(2 * layers / 3)} & set(range(layers)))


@torch.no_grad()
def _fit(base: MeanPooledClassifier, side: SideModules, sample: TextSample) -> None:
    """Mean and principal directions of every depth over the tokens of the sample, at variance 1 for the largest."""
    sizes, width = side.sizes, side.sizes["hidden"]
    depths = (*sizes["layers"], -1)
    total = torch.zeros(len(depths), width, dtype=torch.float64)
    second = torch.zeros(len(depths), width, width, dtype=torch.float64)
    tokens = 0
    for batch in sample.batches():
        is_text = batch["attention_mask"].bool()
        states = base.states(**batch)
        rows = torch.stack([unit_states(states[depth])[is_text] for depth in depths]).double()
        total += rows.sum(dim=1)
        second += rows.transpose(1, 2) @ rows
        tokens += rows.shape[1]
    mean = total / tokens
    values, vectors = torch.linalg.eigh(second / tokens - mean[:, :, None] * mean[:, None, :])
    # Ascending; the sign of a direction is the machine's choice and made ours.
    largest = vectors[:, :, -sizes["directions"] :].flip(2)
    largest = largest * torch.sign(largest.gather(1, largest.abs().argmax(dim=1, keepdim=True)))
    side.compression.mean.copy_(mean)
    side.compression.directions.copy_(largest / values[:, -1:, None].clamp(min=1e-12).sqrt())
