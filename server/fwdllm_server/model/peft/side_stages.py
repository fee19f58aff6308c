"""What devices run of side modules: a graph for each block of θ that gives every row with every copy of the block.

Rows go in once however many copies there are, so that all copies are one matrix product, and what comes out has an axis
for them behind that of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fwdllm_common.layout import Layout
from fwdllm_server.model.modeling_fwdllm import SideSizes, pooled, position_buckets

# Sizes of the traced examples; pairwise different, so that no two of them look like one dimension.
_ROWS, _TOKENS, _COPIES, _BEFORE = 3, 7, 2, 5


@dataclass(frozen=True)
class SideStage:
    """A graph to be exported: ``inputs`` have an example and the names of their free axes, in the module's order.

    ``multiplications`` is what :class:`fwdllm_common.manifest.Stage` calls so, ``width`` that of what comes out.
    """

    block: str | None
    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, Mapping[int, str]]]
    outputs: Sequence[str]
    width: int
    multiplications: int


class Block(nn.Module):
    """Slices of the copies of a block, ``[P, size]``; tensors are called by what follows ``owner`` in their name."""

    def __init__(self, layout: Layout, block: str, owner: str = ".") -> None:
        super().__init__()
        start = layout.block(block).start
        specs = {spec.name.rpartition(owner)[2]: spec for spec in layout.tensors if spec.block == block}
        places = layout.tensors_of(block)
        self._places = {
            name: (slice(place.start - start, place.stop - start), spec.shape)
            for (name, spec), place in zip(specs.items(), places, strict=True)
        }

    def _tensor(self, theta: Tensor, name: str) -> Tensor:
        """Return the copies of one tensor, ``[P, *shape]``."""
        place, shape = self._places[name]
        return theta[:, place].reshape(-1, *shape)

    def _has(self, name: str) -> bool:
        return name in self._places


class PoolingStage(Block):
    """Numbers of tokens → poolings, ``[N, P, J · width]``."""

    def __init__(self, layout: Layout, block: str, tokens: int) -> None:
        super().__init__(layout, block)
        self._buckets = position_buckets(tokens)

    def forward(self, attention_mask: Tensor, activation: Tensor, theta: Tensor) -> Tensor:
        """``attention_mask`` int64 ``[N, T]``, ``activation`` ``[N, T, width]``."""
        queries, positions = self._tensor(theta, "queries"), self._tensor(theta, "positions")
        return pooled(activation, attention_mask, queries, positions, self._buckets)


class ReadoutStage(Block):
    """Poolings, of C copies, → their logits, ``[N, C · P, labels]``."""

    def forward(self, activation: Tensor, theta: Tensor) -> Tensor:
        """``activation`` ``[N, C, width]``."""
        return _products(activation, self._tensor(theta, "weight"))


class HeadStage(Block):
    """Adds the head's logits to those that come in, of C copies: loss ``[N, C · P]``, logits ``[N, C · P, labels]``."""

    def forward(self, activation: Tensor, features: Tensor, theta: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """``activation`` ``[N, C, labels]``, ``features`` ``[N, width]``, ``labels`` int64 ``[N]``."""
        own = _products(features[:, None], self._tensor(theta, "weight"))
        if self._has("bias"):
            own = own + self._tensor(theta, "bias")
        logits = (activation[:, :, None] + own[:, None]).flatten(1, 2)
        indices = labels[:, None, None].expand(-1, logits.shape[1], 1)
        loss = -functional.log_softmax(logits, dim=-1).gather(2, indices).squeeze(2)
        return loss, logits


def side_stages(layout: Layout, sizes: SideSizes, features: int) -> list[SideStage]:
    """Return the stages above the frozen ones in their order; the head reads so many ``features``."""
    pooling, readout, head = layout.blocks
    width = (len(sizes["layers"]) + 1) * sizes["directions"]
    poolings, labels = sizes["poolings"] * width, sizes["labels"]
    thetas = {
        block: (torch.zeros(_COPIES, layout.block(block).size), {0: f"copies_{block}"}) for block in layout.blocks
    }
    rows: Mapping[int, str] = {0: "rows"}
    text: Mapping[int, str] = {0: "rows", 1: "tokens"}
    before: Mapping[int, str] = {0: "rows", 1: "copies"}
    return [
        SideStage(
            pooling,
            PoolingStage(layout, pooling, sizes["positions"]),
            {
                "attention_mask": (torch.ones(_ROWS, _TOKENS, dtype=torch.int64), text),
                "activation": (torch.zeros(_ROWS, _TOKENS, width), text),
                "theta": thetas[pooling],
            },
            ["next_activation"],
            poolings,
            2 * poolings,  # scores and weighted means
        ),
        SideStage(
            readout,
            ReadoutStage(layout, readout),
            {"activation": (torch.zeros(_ROWS, _BEFORE, poolings), before), "theta": thetas[readout]},
            ["next_activation"],
            labels,
            layout.block(readout).size,
        ),
        SideStage(
            head,
            HeadStage(layout, head),
            {
                "activation": (torch.zeros(_ROWS, _BEFORE, labels), before),
                "features": (torch.zeros(_ROWS, features), rows),
                "theta": thetas[head],
                "labels": (torch.zeros(_ROWS, dtype=torch.int64), rows),
            },
            ["loss", "logits"],
            labels,
            layout.block(head).size,
        ),
    ]


def _products(x: Tensor, weights: Tensor) -> Tensor:
    """``x`` ``[N, C, in]`` times every copy of a weight, ``[P, out, in]``, in one product: ``[N, C · P, out]``."""
    products = x @ weights.flatten(0, 1).T
    return products.reshape(x.shape[0], -1, weights.shape[1])
