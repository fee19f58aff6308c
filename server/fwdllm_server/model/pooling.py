"""A classifier on mean token vectors, for backbones trained to be pooled like that (sentence encoders)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import layer_stack

MOST_HEAD = (1 << 14) - 1
"""Coordinates of a head, biases included, from which on features are projected: a frame is the next power of two."""
LEAST_PROJECTED = 64
_BASIS = re.compile(r"^projection\..*basis$")


class Centring(nn.Module):
    """Subtracts ``mean``, ``[width]``, which starts at zero and is not trained (decision 0020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """``[N, width]``."""
        return features - self.mean


class Projection(nn.Module):
    """Projects on ``basis``, ``[width, directions]``, which starts at zero and is not trained (decision 0022)."""

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(width, directions))

    def forward(self, features: Tensor) -> Tensor:
        """``[N, width]`` → ``[N, directions]``."""
        return features @ self.basis


class MeanPooledClassifier(nn.Module):
    """``backbone`` → means over unmasked tokens, side by side → ``classifier`` (linear).

    Means are taken of the last hidden state and of what goes into each of ``layers``, counted from 0; with ``layers``
    they are centred, and where the classes are many projected on as many directions as
    :func:`projected_width` says, at most ``most_projected``.
    """

    def __init__(self, backbone: Any, labels: int, layers: Sequence[int] = (), most_projected: int = 0) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.config: Any = backbone.config
        # PEFT records it in the adapter as the name of the base model.
        self.name_or_path: Any = backbone.name_or_path
        self.lower_states: list[Tensor] = []
        """In the pass under way, what went into those of ``layers`` that have been reached, ``[N, T, hidden]``."""
        for layer in layers:
            module: nn.Module = backbone.get_submodule(f"{layer_stack(backbone)}.{layer}")
            module.register_forward_pre_hook(self._keep_input, with_kwargs=True)
        width = (len(layers) + 1) * self.config.get_text_config().hidden_size
        self.centring: nn.Module = Centring(width) if layers else nn.Identity()
        directions = projected_width(labels, width, most_projected) if layers else 0
        self.projection: nn.Module = Projection(width, directions) if directions else nn.Identity()
        self.classifier = nn.Linear(directions or width, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> SequenceClassifierOutput:
        """Logits ``[N, labels]`` from ``input_ids`` and ``attention_mask``, int64 ``[N, T]``."""
        means = self.means(input_ids, attention_mask, **options)
        return SequenceClassifierOutput(logits=self.classifier(self.projection(self.centring(means))))

    def means(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """What is centred and classified, ``[N, width]``."""
        self.lower_states.clear()
        last = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        weights = attention_mask.to(last.dtype).unsqueeze(-1)
        tokens = weights.sum(dim=1).clamp(min=1.0)
        pooled = [(state * weights).sum(dim=1) / tokens for state in (last, *self.lower_states)]
        self.lower_states.clear()
        return torch.cat(pooled, dim=-1)

    def _keep_input(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.lower_states.append(args[0] if args else kwargs["hidden_states"])


@torch.no_grad()
def centre(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Fit a model that centres its features, and perhaps projects them, to the texts of ``batches``; others stay alike.

    The mean over the texts is subtracted. The basis are the principal directions, as much longer than 1 as keeps the
    sum of magnitudes about as it was: a step of Adam moves each weight alike, and then changes the logits alike.
    """
    if not isinstance(model, MeanPooledClassifier) or not isinstance(model.centring, Centring):
        return
    found = [model.means(**batch).double() for batch in batches]
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


def projected_directions(model: nn.Module) -> int:
    """On how many directions a model projects its features; 0 if it does not."""
    # Modules that PEFT saves are wrapped, and say so of their parameters alone.
    return next((parameter.shape[1] for name, parameter in model.named_parameters() if _BASIS.search(name)), 0)


def first_and_middle(backbone: nn.Module) -> Sequence[int]:
    """The layers whose inputs ``layer-means`` pools: the first, which reads the embeddings, and the middle one.

    :raises BadInputError: the model has fewer than two layers, or runs one several times.
    """
    layers = len(list(backbone.get_submodule(layer_stack(backbone)).children()))
    if layers < 2:
        raise BadInputError(f'{type(backbone).__name__} has no separate layers to pool; set pooling = "mean"')
    return 0, layers // 2
