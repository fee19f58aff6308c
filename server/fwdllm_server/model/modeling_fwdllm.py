"""The models that transformers lacks; exported adapters include this file, which needs torch and transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pytorch_utils import Conv1D


class PooledConfig(PreTrainedConfig):  # type: ignore[misc]
    """The configuration of a :class:`MeanPooledClassifier`.

    ``text_config`` is the backbone's, ``pooled_inputs`` the paths in the backbone of layers whose inputs are pooled
    too, ``projected`` the directions that features are projected on, 0 for none, ``bottlenecks`` the widths of
    bottlenecks by the path in the classifier of the module that they follow.
    """

    model_type = "fwdllm-pooled"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - transformers' own way

    def __init__(
        self,
        text_config: Any = None,
        pooled_inputs: Sequence[str] = (),
        bottlenecks: Mapping[str, int] | None = None,
        projected: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Not before: it would be told to forget its attention.
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, Mapping) else text_config
        self.pooled_inputs = list(pooled_inputs)
        self.bottlenecks = dict(bottlenecks or {})
        self.projected = projected


class Centring(nn.Module):
    """The subtraction of ``mean``, ``[width]``, which starts at zero and is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """Subtract the mean from features ``[N, width]``."""
        return features - self.mean


class Projection(nn.Module):
    """Projects on ``basis``, ``[width, directions]``, which starts at zero and is not trained."""

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(width, directions))

    def forward(self, features: Tensor) -> Tensor:
        """``[N, width]`` → ``[N, directions]``."""
        return features @ self.basis


class MeanPooledClassifier(PreTrainedModel):  # type: ignore[misc]
    """The classifier ``backbone`` → concatenated means over unmasked tokens → ``classifier`` (linear).

    The means are of the last hidden state and of the input of each of the configuration's ``pooled_inputs``; where
    there are any, the features are centred, and projected if the configuration says so. Without a ``backbone`` one is
    made, for its weights to be loaded into.
    """

    config_class = PooledConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: PooledConfig, backbone: Any = None) -> None:
        super().__init__(config)
        is_new = backbone is None
        if is_new:
            backbone = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        self.backbone: nn.Module = backbone
        self.lower_states: list[Tensor] = []
        """The inputs ``[N, T, hidden]`` of the pooled layers that the current pass has reached."""
        for layer in config.pooled_inputs:
            self.backbone.get_submodule(layer).register_forward_pre_hook(self._keep_input, with_kwargs=True)
        width = (len(config.pooled_inputs) + 1) * config.text_config.get_text_config().hidden_size
        self.centring: nn.Module = Centring(width) if config.pooled_inputs else nn.Identity()
        self.projection: nn.Module = Projection(width, config.projected) if config.projected else nn.Identity()
        self.classifier = nn.Linear(config.projected or width, config.num_labels)
        insert_bottlenecks(self, config.bottlenecks)
        if is_new:
            self.post_init()

    @classmethod
    def over(
        cls, backbone: Any, labels: int, pooled_inputs: Sequence[str] = (), projected: int = 0
    ) -> MeanPooledClassifier:
        """Put a new head for ``labels`` classes on a backbone that has its weights."""
        own = backbone.config
        names = {"id2label": own.id2label, "label2id": own.label2id} if own.num_labels == labels else {}
        return cls(PooledConfig(own, pooled_inputs, projected=projected, num_labels=labels, **names), backbone)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **options: Any
    ) -> SequenceClassifierOutput:
        """Compute the logits ``[N, labels]``, and a loss if there are ``labels``; ids and mask are int64 ``[N, T]``."""
        options.pop("return_dict", None)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.classifier(self.projection(self.centring(self.means(input_ids, mask, **options))))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def means(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """Compute the features ``[N, width]``, before they are centred."""
        self.lower_states.clear()
        last = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        weights = attention_mask.to(last.dtype).unsqueeze(-1)
        tokens = weights.sum(dim=1).clamp(min=1.0)
        pooled = [(state * weights).sum(dim=1) / tokens for state in (last, *self.lower_states)]
        self.lower_states.clear()
        return torch.cat(pooled, dim=-1)

    def _keep_input(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.lower_states.append(args[0] if args else kwargs["hidden_states"])


def without_pooler(config: Any) -> dict[str, bool]:
    """Return the argument that omits the pooler of the backbone that ``config`` describes, where it has one."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


class Bottleneck(nn.Module):
    """The bottleneck ``hidden`` → ``width`` → ReLU → ``hidden``; its last matrix starts at zero, so it adds nothing."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., hidden]`` to ``[..., hidden]``."""
        up: Tensor = self.up(functional.relu(self.down(x)))
        return up


class AdaptedModule(nn.Module):
    """A module and the bottleneck that reads its output and corrects the residual stream.

    After a matrix the correction is added to the output. A norm at the end of a layer has the residual stream as its
    input: the correction is added there, and the norm is applied to the sum.
    """

    def __init__(self, host: nn.Module, width: int) -> None:
        super().__init__()
        self.host = host
        self.width = width
        weight: Any = host.weight
        self._is_norm = weight.ndim == 1
        self.adapter = Bottleneck(weight.shape[1 if isinstance(host, Conv1D) else 0], width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module's output for ``x [..., in]``, corrected, ``[..., hidden]``."""
        y: Tensor = self.host(x)
        correction: Tensor = self.adapter(y)
        corrected: Tensor = self.host(x + correction) if self._is_norm else y + correction
        return corrected


def insert_bottlenecks(base: nn.Module, widths: Mapping[str, int]) -> None:
    """Add a bottleneck of the given width after each of the modules of ``base`` that ``widths`` names by path."""
    for host, width in widths.items():
        base.set_submodule(host, AdaptedModule(base.get_submodule(host), width))


# Whoever saves such a model saves this file with it.
PooledConfig.register_for_auto_class()
MeanPooledClassifier.register_for_auto_class("AutoModelForSequenceClassification")
