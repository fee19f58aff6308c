"""A classifier on mean token vectors, for backbones trained to be pooled like that (sentence encoders)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import layer_stack


class Centring(nn.Module):
    """Subtracts ``mean``, ``[width]``, which starts at zero and is not trained (decision 0020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """``[N, width]``."""
        return features - self.mean


class MeanPooledClassifier(nn.Module):
    """``backbone`` → means over unmasked tokens, side by side → ``classifier`` (linear), and what ``side`` adds to it.

    Means are taken of the last hidden state and of what goes into each of ``layers``, counted from 0; with ``layers``
    they are centred.
    """

    def __init__(self, backbone: Any, labels: int, layers: Sequence[int] = ()) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.config: Any = backbone.config
        # PEFT records it in the adapter as the name of the base model.
        self.name_or_path: Any = backbone.name_or_path
        self.lower_states: list[Tensor] = []
        """In the pass under way, what went into those watched layers that have been reached, ``[N, T, hidden]``."""
        self._reached: list[int] = []
        self._pooled = tuple(layers)
        self._watched = self._pooled
        for layer in backbone.get_submodule(layer_stack(backbone)).children():
            layer.register_forward_pre_hook(self._keep_input, with_kwargs=True)
        width = (len(layers) + 1) * self.config.get_text_config().hidden_size
        self.centring: nn.Module = Centring(width) if layers else nn.Identity()
        self.classifier = nn.Linear(width, labels)
        self.side: nn.Module | None = None
        """Reads all hidden states that are kept and the mask, and gives logits (:mod:`.peft.side`)."""

    def watch(self, layers: Iterable[int]) -> None:
        """Keep what goes into these layers too, counted in the order in which a pass reaches them."""
        self._watched = tuple(sorted({*self._watched, *layers}))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> SequenceClassifierOutput:
        """Logits ``[N, labels]`` from ``input_ids`` and ``attention_mask``, int64 ``[N, T]``."""
        states = self.states(input_ids, attention_mask, **options)
        logits = self.classifier(self.centring(self.means(states, attention_mask)))
        if self.side is not None:
            logits = logits + self.side(states, attention_mask)
        return SequenceClassifierOutput(logits=logits)

    def states(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> dict[int, Tensor]:
        """What goes into each watched layer, by its number, and the last hidden state at -1: ``[N, T, hidden]``."""
        self.lower_states.clear()
        self._reached.clear()
        last = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        states = {**dict(zip(self._watched, self.lower_states, strict=True)), -1: last}
        self.lower_states.clear()
        self._reached.clear()
        return states

    def means(self, states: Mapping[int, Tensor], attention_mask: Tensor) -> Tensor:
        """What is centred and classified, ``[N, width]``."""
        weights = attention_mask.to(states[-1].dtype).unsqueeze(-1)
        tokens = weights.sum(dim=1).clamp(min=1.0)
        return torch.cat([(states[layer] * weights).sum(dim=1) / tokens for layer in (-1, *self._pooled)], dim=-1)

    def _keep_input(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(self._reached) in self._watched:
            self.lower_states.append(args[0] if args else kwargs["hidden_states"])
        self._reached.append(len(self._reached))


@torch.no_grad()
def centre(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Have a model that centres its features subtract their mean over the texts of ``batches``; others stay alike."""
    if not isinstance(model, MeanPooledClassifier) or not isinstance(model.centring, Centring):
        return
    found = [model.means(model.states(**batch), batch["attention_mask"]).double() for batch in batches]
    if found:
        model.centring.mean.copy_(torch.cat(found).mean(dim=0))


def first_and_middle(backbone: nn.Module) -> Sequence[int]:
    """The layers whose inputs ``layer-means`` pools: the first, which reads the embeddings, and the middle one.

    :raises BadInputError: the model has fewer than two layers, or runs one several times.
    """
    layers = len(list(backbone.get_submodule(layer_stack(backbone)).children()))
    if layers < 2:
        raise BadInputError(f'{type(backbone).__name__} has no separate layers to pool; set pooling = "mean"')
    return 0, layers // 2
