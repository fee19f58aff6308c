"""Small modules beside a frozen model (decision 0023): attention poolings of its compressed token states.

The hidden states of a token at four depths are projected on the principal directions of unlabelled texts. A few
queries pool these numbers over a text, and a linear readout of the poolings adds to the logits of the head. Nothing of
the model itself is trained, so a device computes the states of each row once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.peft.method import Request, Wrapped
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.pooling import MeanPooledClassifier

POOLINGS = 8
DIRECTIONS = 64
"""Principal directions of a depth; all, where the model is narrower."""
_QUERY_SCALE = 0.1
"""Standard deviation of the queries' entries at the start: poolings that are alike would have the same gradients."""
_EXACT_POSITIONS = 16
_BUCKETS_AN_OCTAVE = 4


class SideSizes(TypedDict):
    """What is needed to make the modules before their tensors are loaded."""

    layers: Sequence[int]
    hidden: int
    directions: int
    poolings: int
    positions: int
    labels: int


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
        """The numbers of each token, ``[N, T, width]``."""
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
    """The first positions have a bucket each, later ones four in every doubling."""
    if position < _EXACT_POSITIONS:
        return position
    octave = position.bit_length() - 1
    within = (position - (1 << octave)) * _BUCKETS_AN_OCTAVE >> octave
    return _EXACT_POSITIONS + (octave - _EXACT_POSITIONS.bit_length() + 1) * _BUCKETS_AN_OCTAVE + within


def position_buckets(tokens: int) -> Tensor:
    """The buckets of so many positions, int64."""
    return torch.tensor([position_bucket(position) for position in range(tokens)])


def insert_side(base: nn.Module, sizes: SideSizes) -> None:
    """Put untrained side modules into ``base``.

    :raises BadInputError: its classifier does not pool means.
    """
    if not isinstance(base, MeanPooledClassifier):
        raise BadInputError('the method "side" needs [model] pooling = "layer-means" or "mean"')
    base.watch(sizes["layers"])
    base.side = SideModules(sizes)


def side_of(base: nn.Module) -> SideModules | None:
    """The side modules in ``base``, those that are trained if PEFT has wrapped them; None if it has none."""
    found = [module for module in base.modules() if isinstance(module, SideModules)]
    return found[-1] if found else None


def side(request: Request) -> Wrapped:
    """Trains queries and readout; the principal directions are those of the sample.

    :raises BadInputError: the model does not pool means, or there are no texts.
    """
    base: Any = request.base
    if request.sample is None or not any(request.sample.texts):
        raise BadInputError('the method "side" needs unlabelled texts to find principal directions, and there are none')
    config = base.config.get_text_config()
    sizes = SideSizes(
        layers=_depths(config.num_hidden_layers),
        hidden=config.hidden_size,
        directions=min(DIRECTIONS, config.hidden_size),
        poolings=POOLINGS,
        positions=request.sample.max_tokens,
        labels=base.classifier.out_features if isinstance(base, MeanPooledClassifier) else 0,
    )
    insert_side(base, sizes)
    _fit(base, base.side, request.sample)
    peft_config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=[*request.saved, "side"])
    model: Any = get_peft_model(base, peft_config)
    modules = model.get_base_model().side.modules_to_save["default"]
    return Wrapped(model, [*modules.pooling.parameters(), *modules.readout.parameters()])


def _depths(layers: int) -> list[int]:
    """The layers at the start and after one and two thirds of the depth."""
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
