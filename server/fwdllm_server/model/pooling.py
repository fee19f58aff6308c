"""The layers that a classifier on mean token vectors pools, and the mean that it is centred by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import layer_stack
from fwdllm_server.model.modeling_fwdllm import Centring, MeanPooledClassifier


@torch.no_grad()
def centre(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the mean that a model with centred features subtracts to that of the texts of ``batches``."""
    if not isinstance(model, MeanPooledClassifier) or not isinstance(model.centring, Centring):
        return
    found = [model.means(**batch).double() for batch in batches]
    if found:
        model.centring.mean.copy_(torch.cat(found).mean(dim=0))


def first_and_middle(backbone: nn.Module) -> Sequence[str]:
    """Return the paths of the layers whose inputs ``layer-means`` pools: the first (the embeddings) and the middle one.

    :raises BadInputError: the model has fewer than two layers, or runs one several times.
    """
    stack = layer_stack(backbone)
    layers = len(list(backbone.get_submodule(stack).children()))
    if layers < 2:
        raise BadInputError(f'{type(backbone).__name__} has no separate layers to pool; set pooling = "mean"')
    return f"{stack}.0", f"{stack}.{layers // 2}"
