"""The models that transformers lacks; exported adapters include this file, which needs torch and transformers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pytorch_utils import Conv1D

_QUERY_SCALE = 0.1
"""Standard deviation of the queries' entries at the start: poolings that are alike would have the same gradients."""
_EXACT_POSITIONS = 16
_BUCKETS_AN_OCTAVE = 4


class SideSizes(TypedDict):
    """What :class:`SideModules` are made from; ``layers`` are those that the states go into, but for the last state."""

    layers: Sequence[int]
    hidden: int
    directions: int
    poolings: int
    positions: int
    labels: int


class PooledConfig(PreTrainedConfig):  # type: ignore[misc]
    """The configuration of a :class:`MeanPooledClassifier`.

    ``text_config`` is the backbone's, ``layers`` the path in the backbone of the list of its layers, ``pooled_inputs``
    the layers whose inputs are pooled too, ``projected`` the directions that features are projected on, 0 for none,
    ``bottlenecks`` the widths of bottlenecks by the path in the classifier of the module that they follow, ``side`` the
    sizes of side modules. Layers are counted from 0 in the order in which a pass reaches them.
    """

    model_type = "fwdllm-pooled"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - transformers' own way

    def __init__(
        self,
        text_config: Any = None,
        layers: str = "",
        pooled_inputs: Sequence[int] = (),
        bottlenecks: Mapping[str, int] | None = None,
        projected: int = 0,
        side: SideSizes | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Not before: it would be told to forget its attention.
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, Mapping) else text_config
        self.layers = layers
        self.pooled_inputs = list(pooled_inputs)
        self.bottlenecks = dict(bottlenecks or {})
        self.projected = projected
        self.side = side


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
    """The classifier ``backbone`` → concatenated means over unmasked tokens → ``classifier`` (linear), plus ``side``.

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
        """The inputs ``[N, T, hidden]`` of the watched layers that the current pass has reached."""
        self._reached = 0
        self._watched: Sequence[int] = ()
        self._watch(config.pooled_inputs)
        width = (len(config.pooled_inputs) + 1) * config.text_config.get_text_config().hidden_size
        self.centring: nn.Module = Centring(width) if config.pooled_inputs else nn.Identity()
        self.projection: nn.Module = Projection(width, config.projected) if config.projected else nn.Identity()
        self.classifier = nn.Linear(config.projected or width, config.num_labels)
        self.side: nn.Module | None = None
        insert_bottlenecks(self, config.bottlenecks)
        if config.side is not None:
            self.add_side(config.side)
        if is_new:
            self.post_init()

    @classmethod
    def over(
        cls, backbone: Any, labels: int, layers: str = "", pooled_inputs: Sequence[int] = (), projected: int = 0
    ) -> MeanPooledClassifier:
        """Put a new head for ``labels`` classes on a backbone that has its weights."""
        own = backbone.config
        names = {"id2label": own.id2label, "label2id": own.label2id} if own.num_labels == labels else {}
        if own.problem_type is not None:
            names["problem_type"] = own.problem_type
        config = PooledConfig(own, layers, pooled_inputs, projected=projected, num_labels=labels, **names)
        return cls(config, backbone)

    def add_side(self, sizes: SideSizes) -> SideModules:
        """Add untrained side modules, which leave the logits as they are."""
        self.config.side = sizes
        self._watch(sizes["layers"])
        self.side = side = SideModules(sizes)
        return side

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **options: Any
    ) -> SequenceClassifierOutput:
        """Compute the logits ``[N, labels]``, and a loss if there are ``labels``; ids and mask are int64 ``[N, T]``."""
        options.pop("return_dict", None)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.states(input_ids, mask, **options)
        logits = self.classifier(self.features(states, mask))
        if self.side is not None:
            logits = logits + self.side(states, mask)
        loss = None if labels is None else self._loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of transformers' own classifiers for the configuration's ``problem_type``."""
        if self.config.problem_type == "regression":
            return functional.mse_loss(logits.squeeze(1), labels)
        if self.config.problem_type == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, labels)
        return functional.cross_entropy(logits, labels)

    def states(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> dict[int, Tensor]:
        """Return what goes into each watched layer, by its number, and the last state at -1: ``[N, T, hidden]``."""
        self.lower_states.clear()
        self._reached = 0
        last = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        states = {**dict(zip(self._watched, self.lower_states, strict=True)), -1: last}
        self.lower_states.clear()
        return states

    def means(self, states: Mapping[int, Tensor], attention_mask: Tensor) -> Tensor:
        """Return what is centred, ``[N, width]``."""
        weights = attention_mask.to(states[-1].dtype).unsqueeze(-1)
        tokens = weights.sum(dim=1).clamp(min=1.0)
        layers = (-1, *self.config.pooled_inputs)
        return torch.cat([(states[layer] * weights).sum(dim=1) / tokens for layer in layers], dim=-1)

    def features(self, states: Mapping[int, Tensor], attention_mask: Tensor) -> Tensor:
        """Return what is classified: the means, centred and projected, ``[N, width]``."""
        features: Tensor = self.projection(self.centring(self.means(states, attention_mask)))
        return features

    def _watch(self, layers: Iterable[int]) -> None:
        """Keep what goes into these layers too."""
        is_watching = bool(self._watched)
        self._watched = sorted({*self._watched, *layers})
        if self._watched and not is_watching:
            for layer in self.backbone.get_submodule(self.config.layers).children():
                layer.register_forward_pre_hook(self._keep_input, with_kwargs=True)

    def _keep_input(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._reached in self._watched:
            self.lower_states.append(args[0] if args else kwargs["hidden_states"])
        self._reached += 1


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


class Compression(nn.Module):
    """Hidden states of several depths → a few numbers for each token; frozen.

    ``mean`` ``[depths, hidden]`` is subtracted, ``directions`` ``[depths, hidden, K]`` are multiplied with.
    """

    def __init__(self, depths: int, hidden: int, directions: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(depths, hidden))
        self.directions = nn.Parameter(torch.zeros(depths, hidden, directions))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """One state for each depth, ``[N, T, hidden]`` → ``[N, T, depths · K]``."""
        # One product of rank 4: quantising leaves its weights alone, which are few and whose errors everything reads.
        centred = torch.stack([unit_states(state) for state in states]) - self.mean[:, None, None]
        return (centred @ self.directions[:, None]).permute(1, 2, 0, 3).flatten(2)


class AttentionPooling(nn.Module):
    """Weighted means over the tokens of a text, each by a query and a bias for every bucket of positions."""

    def __init__(self, poolings: int, width: int, positions: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(poolings, width) * _QUERY_SCALE)
        self.positions = nn.Parameter(torch.zeros(poolings, position_bucket(positions - 1) + 1))
        self.tokens = positions

    def forward(self, numbers: Tensor, attention_mask: Tensor) -> Tensor:
        """``[N, T, width]`` → ``[N, poolings · width]``."""
        buckets = position_buckets(self.tokens)
        return pooled(numbers, attention_mask, self.queries[None], self.positions[None], buckets).squeeze(1)


class SideModules(nn.Module):
    """What is added to the logits: compression, ``pooling`` and ``readout``, which starts at zero."""

    def __init__(self, sizes: SideSizes) -> None:
        super().__init__()
        self.sizes = sizes
        depths = len(sizes["layers"]) + 1
        width = depths * sizes["directions"]
        self.compression = Compression(depths, sizes["hidden"], sizes["directions"])
        self.pooling = AttentionPooling(sizes["poolings"], width, sizes["positions"])
        self.readout = nn.Linear(sizes["poolings"] * width, sizes["labels"], bias=False)
        nn.init.zeros_(self.readout.weight)

    def forward(self, states: Mapping[int, Tensor], attention_mask: Tensor) -> Tensor:
        """Hidden states by the layer that they go into, the last at -1 → ``[N, labels]``."""
        logits: Tensor = self.readout(self.pooling(self.compressed(states), attention_mask))
        return logits

    def compressed(self, states: Mapping[int, Tensor]) -> Tensor:
        """Return the numbers of each token, ``[N, T, width]``."""
        numbers: Tensor = self.compression([states[layer] for layer in (*self.sizes["layers"], -1)])
        return numbers


def pooled(numbers: Tensor, attention_mask: Tensor, queries: Tensor, positions: Tensor, buckets: Tensor) -> Tensor:
    """Every row under each of P copies of the weights: ``[N, T, width]`` → ``[N, P, J · width]``.

    ``queries`` ``[P, J, width]``, ``positions`` ``[P, J, buckets]``, ``buckets`` the bucket of each position, int64.
    """
    bias = positions.flatten(0, 1)[:, buckets.clone()[: numbers.shape[1]]]
    scores = (numbers @ queries.flatten(0, 1).T).transpose(1, 2) + bias
    scores = scores.masked_fill(attention_mask[:, None] == 0, torch.finfo(scores.dtype).min)
    means = torch.softmax(scores, dim=-1) @ numbers
    return means.reshape(means.shape[0], queries.shape[0], -1)


def unit_states(states: Tensor) -> Tensor:
    """States at root mean square 1: some tokens of decoders are a thousand times as long as all others."""
    return states * torch.rsqrt(states.square().mean(dim=-1, keepdim=True) + 1e-6)


def position_bucket(position: int) -> int:
    """Return the bucket of each position: one each at first, then four in every doubling."""
    if position < _EXACT_POSITIONS:
        return position
    octave = position.bit_length() - 1
    within = (position - (1 << octave)) * _BUCKETS_AN_OCTAVE >> octave
    return _EXACT_POSITIONS + (octave - _EXACT_POSITIONS.bit_length() + 1) * _BUCKETS_AN_OCTAVE + within


def position_buckets(tokens: int) -> Tensor:
    """Return the buckets of so many positions, int64."""
    return torch.tensor([position_bucket(position) for position in range(tokens)])


# Whoever saves such a model saves this file with it.
PooledConfig.register_for_auto_class()
MeanPooledClassifier.register_for_auto_class("AutoModelForSequenceClassification")
