"""What devices run of side modules of a model that generates: the network itself, and the output matrix behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fwdllm_common.layout import Layout
from fwdllm_server.model.modeling_fwdllm import TokenSide
from fwdllm_server.model.peft.side_stages import Block, SideStage
from fwdllm_server.tasks import Task

# Sizes of the traced examples; pairwise different, so that no two of them look like one dimension.
_ROWS, _TOKENS, _COPIES = 3, 7, 2


class CorrectionStage(Block):
    """Numbers of tokens → coordinates of what is added to their last state, ``[P · N, T, slopes]``."""

    def forward(self, activation: Tensor, theta: Tensor) -> Tensor:
        """``activation`` ``[N, T, width]``; row n of copy p becomes p · N + n."""
        numbers = activation.flatten(0, 1)
        down, straight = self._tensor(theta, "down.weight"), self._tensor(theta, "straight.weight")
        narrow = _of_all_copies(numbers, down) + self._tensor(theta, "down.bias")[:, None]
        up = self._tensor(theta, "up.weight").transpose(1, 2)
        coordinates = functional.gelu(narrow) @ up + _of_all_copies(numbers, straight)
        return coordinates.reshape(-1, activation.shape[1], coordinates.shape[-1])


class OutputStage(nn.Module):
    """Corrected states → loss ``[N]``, logits ``[N, T, vocabulary]`` and, if asked for, slopes ``[N, T, slopes]``."""

    def __init__(self, output: nn.Linear, side: TokenSide, task: Task, linearised: bool) -> None:
        super().__init__()
        # The same weights in a module without the hook that corrects the states.
        self.output = nn.Linear(output.in_features, output.out_features, output.bias is not None, device="meta")
        self.output.weight, self.output.bias = output.weight, output.bias
        self.basis = nn.Parameter(side.basis.detach().clone()[None])
        self._task = task
        self._linearised = linearised

    def forward(self, activation: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """``activation`` ``[N, T, slopes]``, ``features`` ``[N, T, hidden]``, ``labels`` int64 ``[N, T, 2]``."""
        logits = self.output(features + activation @ self.basis)
        loss = self._task.losses(logits, labels, labels)
        if not self._linearised:
            return loss, logits
        token = labels.select(2, 1).unsqueeze(2)
        is_token = (token == torch.arange(logits.shape[-1])).to(logits.dtype)
        slopes = (torch.softmax(logits, dim=-1) - is_token) @ self.output.weight @ self.basis.transpose(1, 2)
        return loss, logits, slopes


def token_side_stages(
    layout: Layout, side: TokenSide, output: nn.Linear, task: Task, linearised: bool
) -> list[SideStage]:
    """Return the stages above the frozen ones in their order; ``output`` is the model's output matrix."""
    (block,) = layout.blocks
    sizes = side.sizes
    numbers = (len(sizes["layers"]) + 1) * sizes["directions"]
    text = {0: "rows", 1: "tokens"}
    return [
        SideStage(
            block,
            CorrectionStage(layout, block, "side."),
            {
                "activation": (torch.zeros(_ROWS, _TOKENS, numbers), text),
                "theta": (torch.zeros(_COPIES, layout.block(block).size), {0: f"copies_{block}"}),
            },
            ["next_activation"],
            sizes["slopes"],
            layout.block(block).size,
        ),
        SideStage(
            None,
            OutputStage(output, side, task, linearised),
            {
                "activation": (torch.zeros(_ROWS, _TOKENS, sizes["slopes"]), text),
                "features": (torch.zeros(_ROWS, _TOKENS, sizes["hidden"]), text),
                "labels": (torch.zeros(_ROWS, _TOKENS, 2, dtype=torch.int64), text),
            },
            ["loss", "logits", *(["slopes"] if linearised else [])],
            output.out_features,
            output.weight.numel() * (2 if linearised else 1),
        ),
    ]


def _of_all_copies(x: Tensor, weights: Tensor) -> Tensor:
    """``x`` ``[T, in]`` times every copy of a weight, ``[P, out, in]``, in one product: ``[P, T, out]``."""
    products = x @ weights.flatten(0, 1).T
    return products.reshape(x.shape[0], -1, weights.shape[1]).transpose(0, 1)
