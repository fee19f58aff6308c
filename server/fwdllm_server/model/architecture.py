"""The parts of a transformer by path: its head, its stack of layers and its linear modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fwdllm_common.errors import BadInputError

HEAD_NAMES = ("classifier", "score", "qa_outputs")
OUTPUT_NAMES = ("lm_head", "embed_out")
"""What language models call the matrix that gives the scores of all tokens; it is not trained."""


def head_name(model: nn.Module) -> str:
    """Return the attribute of the head: one of :data:`HEAD_NAMES`, or of a language model :data:`OUTPUT_NAMES`.

    :raises BadInputError: the model has none of them.
    """
    children = dict(model.named_children())
    for name in (*HEAD_NAMES, *OUTPUT_NAMES):
        if name in children:
            return name
    raise BadInputError(f"{type(model).__name__} has no head called {' or '.join(HEAD_NAMES)}; try pooling 'mean'")


def is_language_model(model: nn.Module) -> bool:
    """Return whether the model predicts tokens, so that its head is not to be trained."""
    return head_name(model) in OUTPUT_NAMES


def last_linear(head: nn.Module) -> tuple[str, nn.Linear]:
    """Return the linear module that computes the logits, after its path in ``head`` ("" for the head itself).

    :raises BadInputError: the head has none.
    """
    linears = [(name, module) for name, module in head.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise BadInputError(f"the head {type(head).__name__} has no linear layer to train; try pooling 'mean'")
    return linears[-1]


def linear_modules(model: nn.Module) -> list[str]:
    """Return the paths of the modules that multiply by a weight matrix, in the model's order, without the head's."""
    head = head_name(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.split(".")[0] != head
    ]


def norm_modules(model: nn.Module) -> list[str]:
    """Return the paths of the normalisations of hidden states, in the model's order, without the head's."""
    head = head_name(model)
    return [name for name, module in model.named_modules() if _is_norm(module) and name.split(".")[0] != head]


def closing_modules(model: nn.Module, layers: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return, for each of the layers (paths), the candidate (path) in it that a forward pass calls last."""
    last: dict[str, str] = {}

    def note(layer: str, path: str) -> Callable[..., None]:
        return lambda *_: last.__setitem__(layer, path)

    hooks = [
        model.get_submodule(path).register_forward_hook(note(layer, path))
        for layer in layers
        for path in candidates
        if path.startswith(f"{layer}.")
    ]
    ids = torch.ones(1, 2, dtype=torch.int64)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=ids)
    for hook in hooks:
        hook.remove()
    return [last[layer] for layer in layers]


def layer_stack(model: nn.Module) -> str:
    """Return the path of the list of transformer layers: the outermost list of modules, the largest of several.

    :raises BadInputError: the model has no such list.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [(n, m) for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    if not outermost:
        raise BadInputError(f"{type(model).__name__} has no list of transformer layers; choose another model")
    name, _ = max(outermost, key=lambda pair: sum(parameter.numel() for parameter in pair[1].parameters()))
    return str(name)


def _is_norm(module: nn.Module) -> bool:
    # Root-mean-square norms are a class of their own in every architecture.
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
