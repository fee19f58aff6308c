"""The layers that a classifier on mean token vectors pools, and the mean that it is centred by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import layer_stack
from fwdllm_server.model.modeling_fwdllm import Centring, MeanPooledClassifier, Projection

MOST_HEAD = (1 << 14) - 1
"""Coordinates of a head, biases included, from which on features are projected: a frame is the next power of two."""
LEAST_PROJECTED = 64


@torch.no_grad()
def centre(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the mean that a model with centred features subtracts to that of the texts of ``batches``.

    A model that projects its features gets the principal directions as its basis. They are as much longer than 1 as
    keeps the sum of magnitudes about as it was: a step of Adam moves each weight alike, and then changes the logits
    alike. Other models stay as they are.
    """
    if not isinstance(model, MeanPooledClassifier) or not isinstance(model.centring, Centring):
        return
    found = [model.means(model.states(**batch), batch["attention_mask"]).double() for batch in batches]
    if not found:
        return
    features = torch.cat(found)
    model.centring.mean.copy_(features.mean(dim=0))
    if isinstance(model.projection, Projection):
        width, directions = model.projection.basis.shape
        _, _, principal = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
        model.projection.basis.copy_(principal[:directions].T * sqrt(width / directions))


def projected_width(labels: int, width: int, most: int) -> int:
    """On how many directions features of a ``width`` are projected, at most ``most``; 0 if they are left alone.

    So many that a device can measure the head completely, but not fewer than :data:`LEAST_PROJECTED`.
    """
    if labels * (width + 1) <= MOST_HEAD or most < LEAST_PROJECTED:
        return 0
    return min(most, width, max(LEAST_PROJECTED, MOST_HEAD // labels - 1))


def first_and_middle(backbone: nn.Module) -> Sequence[int]:
    """Return the layers whose inputs ``layer-means`` pools: the first (the embeddings) and the middle one.

    :raises BadInputError: the model has fewer than two layers, or runs one several times.
    """
    layers = len(list(backbone.get_submodule(layer_stack(backbone)).children()))
    if layers < 2:
        raise BadInputError(f'{type(backbone).__name__} has no separate layers to pool; set pooling = "mean"')
    return 0, layers // 2
