"""The logits of a model, computed alike in every exported graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fwdllm_server.model.architecture import head_name, is_language_model
from fwdllm_server.model.segments import segments


def logits_of(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    separator: int | None = None,
    positions: Tensor | None = None,
    every_token: bool = False,
) -> Tensor:
    """Return the class scores ``[N, labels]``, or scores for each token, ``[N, T, 2]`` or ``[N, T, vocabulary]``.

    ``input_ids`` and ``attention_mask`` are int64 ``[N, T]``. With a ``separator`` (token id) the model is told which
    tokens come after it. A language model computes its scores at ``positions`` alone, int64 ``[N, C]``, if there are
    any: ``[N, C, vocabulary]``. A decoder's head reads the last token, or with ``every_token`` all: ``[N, T, labels]``.
    """
    text = {"input_ids": input_ids, "attention_mask": attention_mask, **segments(input_ids, separator)}
    if head_name(model) == "score" and not every_token:
        return _decoder_logits(model, text)
    if is_language_model(model):
        return _next_tokens(model, text, positions)
    output = model(**text)
    logits: Tensor
    if "start_logits" in output:
        logits = torch.stack((output.start_logits, output.end_logits), dim=-1)
    else:
        logits = output.logits
    return logits


def _decoder_logits(model: Any, text: dict[str, Tensor]) -> Tensor:
    """Apply the decoder's own rule, with the last token taken before the head, so that features are ``[N, H]``."""
    hidden = model.base_model(**text, use_cache=False).last_hidden_state
    is_text = text["input_ids"] != model.config.get_text_config().pad_token_id
    last = (torch.arange(hidden.shape[1]) * is_text).argmax(dim=-1)
    index = last[:, None, None].expand(-1, 1, hidden.shape[-1])
    logits: Tensor = model.score(hidden.gather(1, index).squeeze(1))
    return logits


def _next_tokens(model: Any, text: dict[str, Tensor], positions: Tensor | None) -> Tensor:
    """Let only the states at ``positions`` reach the output matrix, which is the largest of a small model."""
    if positions is None:
        logits: Tensor = model(**text, use_cache=False).logits
        return logits
    index = positions

    def chosen(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, *others = args
        return (states.gather(1, index[:, :, None].expand(-1, -1, states.shape[-1])), *others)

    hook = model.get_submodule(head_name(model)).register_forward_pre_hook(chosen)
    try:
        logits = model(**text, use_cache=False).logits
    finally:
        hook.remove()
    return logits
