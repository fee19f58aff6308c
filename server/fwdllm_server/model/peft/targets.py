"""Which layers and modules of a model a job means."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.architecture import layer_stack

_FUSED = {"Wqkv", "qkv_proj", "query_key_value", "c_attn"}
ROLES = {
    "query": {"query", "q_proj", "q_lin", *_FUSED},
    "key": {"key", "k_proj", "k_lin", *_FUSED},
    "value": {"value", "v_proj", "v_lin", *_FUSED},
}
"""What architectures call the projections of attention: a target may name the role instead of the module."""


def chosen_layers(base: nn.Module, layers: Sequence[int] | None) -> list[str]:
    """Paths of the transformer layers with these numbers, negative ones counting from the top; None means all.

    :raises BadInputError: the model does not have such a layer.
    """
    if layers == []:
        return []
    stack = layer_stack(base)
    count = len(list(base.get_submodule(stack).children()))
    for layer in layers or ():
        if not -count <= layer < count:
            raise BadInputError(f"no layer {layer}: the model has {count}, numbered 0 to {count - 1} or -{count} to -1")
    wanted = range(count) if layers is None else sorted({layer % count for layer in layers})
    return [f"{stack}.{index}" for index in wanted]


def matching(candidates: Sequence[str], targets: Collection[str]) -> list[str]:
    """The candidates, in their order, that a target names by full path, by last components or by its role.

    :raises BadInputError: a target names none.
    """
    for target in targets:
        if not any(_matches(name, target) for name in candidates):
            raise BadInputError(f"no module {target!r} to adapt; {_suggest(target, candidates)}")
    return [name for name in candidates if any(_matches(name, target) for target in targets)]


def select(
    base: nn.Module, candidates: Sequence[str], targets: Collection[str], layers: Sequence[int] | None
) -> list[str]:
    """The candidates that a target names and that lie in one of ``layers``, or anywhere if that is None.

    :raises BadInputError: a target names none, or the model does not have such a layer.
    """
    matched = matching(candidates, targets)
    if layers is None:
        return matched
    chosen = chosen_layers(base, layers)
    return [name for name in matched if inside(name, chosen)]


def inside(name: str, parents: Collection[str]) -> bool:
    """Whether the module ``name`` is one of ``parents`` or lies in one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}") or name.rpartition(".")[2] in ROLES.get(target, ())


def _suggest(target: str, candidates: Sequence[str]) -> str:
    names = sorted({name.rpartition(".")[2] for name in candidates})
    near = difflib.get_close_matches(target, names)
    return f"did you mean {' or '.join(near)}?" if near else f"the model has {', '.join(names)}"
