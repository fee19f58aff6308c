"""The loss of each example, by task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross entropies ``[N]`` of ``logits [N, labels]`` at ``labels``, int64 ``[N]``."""
    # Not functional.cross_entropy: its operator is exported with a wrong output shape.
    return -functional.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)


def span_losses(logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the mean of the cross entropies of a span's start and end, ``[N]``, over the tokens of the text alone.

    ``logits [N, T, 2]`` score every token as start and as end, ``labels`` int64 ``[N, 2]`` are the two tokens' indices.
    Hugging Face's loss includes the padding, and so depends on the length that a row is padded to.
    """
    scores = logits.masked_fill(attention_mask[:, :, None] == 0, torch.finfo(logits.dtype).min)
    return -functional.log_softmax(scores, dim=1).gather(1, labels[:, None, :]).mean(dim=2).squeeze(1)
