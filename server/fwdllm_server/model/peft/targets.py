"""Which layers and modules of a model a job means."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.architecture import layer_stack

_FUSED = {"Wqkv", "qkv_proj", "qkv", "in_proj_qkv", "query_key_value", "c_attn", "attention.self.in_proj"}
_KEYS_AND_VALUES = {"kv_proj", "kv_b_proj"}
ROLES = {
    "query": {"query", "query_proj", "q_proj", "q_lin", "q", "q_head", "q_b_proj", *_FUSED},
    "key": {"key", "key_proj", "k_proj", "k_lin", "k", "k_head", *_KEYS_AND_VALUES, *_FUSED},
    "value": {"value", "value_proj", "v_proj", "v_lin", "v", "v_head", *_KEYS_AND_VALUES, *_FUSED},
}
"""What architectures call the projections of attention: a target may name the role instead of the module."""


def adapted(
    base: nn.Module,
    candidates: Sequence[str],
    spec: PeftSpec,
    table: Mapping[str, Collection[str]],
    roles: Collection[str],
) -> list[str]:
    """Return the candidates that a job means: those its targets name, in its layers.

    Without targets they are what PEFT's ``table`` has for the architecture, and where that has none the ``roles``;
    where no layer is to be trained they are none.

    :raises BadInputError: a target names none, or the model does not have such a layer.
    """
    if spec.layers == [] and not spec.targets:
        return []
    config: Any = base.config
    model_type = config.get_text_config().model_type
    return select(base, candidates, spec.targets or table.get(model_type, roles), spec.layers)


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
    """Return the candidates, in their order, that a target names by full path, by last components or by its role.

    :raises BadInputError: a target names none.
    """
    for target in targets:
        if not any(_matches(name, target) for name in candidates):
            raise BadInputError(f"no module {target!r} to adapt; {_suggest(target, candidates)}")
    return [name for name in candidates if any(_matches(name, target) for target in targets)]


def select(
    base: nn.Module, candidates: Sequence[str], targets: Collection[str], layers: Sequence[int] | None
) -> list[str]:
    """Return the candidates that a target names and that lie in one of ``layers``, or anywhere if that is None.

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
    return any(name == known or name.endswith(f".{known}") for known in (target, *ROLES.get(target, ())))


def _suggest(target: str, candidates: Sequence[str]) -> str:
    names = sorted({name.rpartition(".")[2] for name in candidates})
    near = difflib.get_close_matches(target, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"the model has {', '.join(names)}; name some of them as targets, or none with layers = []"
