"""The transformer below a head: its weights must come from the checkpoint, possibly under other names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from transformers import AutoModel

from fwdllm_common.errors import BadInputError


def new_keys(loaded: Mapping[str, Any]) -> set[str]:
    """Return the tensors that a load initialised because the checkpoint lacks them, as transformers reports."""
    return {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}


def check_backbone(model: Any, made: Collection[str], source: str) -> None:
    """Check that the backbone has no newly initialised tensor among ``made`` except a pooler's.

    :raises BadInputError: the checkpoint in ``source`` lacks more than a head, and the model would be partly random.
    """
    if lost := sorted(_of_backbone(model, made)):
        raise BadInputError(
            f"{source!r} lacks weights of {type(model).__name__}, {lost[0]!r} and {len(lost) - 1} more: "
            "only a head may be new; choose a checkpoint of this architecture"
        )


def load_with_backbone(auto_class: Any, options: Mapping[str, Any]) -> tuple[nn.Module, set[str]]:
    """Load a model of transformers' ``auto_class``; return it with its newly initialised tensors.

    Some models with a head name their backbone differently than the language model of the checkpoint, as decoders that
    answer questions, and transformers then does not find it: it is loaded by itself and put in its place.
    """
    # A head for another number of labels counts as missing.
    model, loaded = auto_class.from_pretrained(ignore_mismatched_sizes=True, **options)
    made = new_keys(loaded)
    lost = _of_backbone(model, made)
    if not lost or model.base_model is model:
        return model, made
    backbone, loaded = AutoModel.from_pretrained(**options)
    setattr(model, model.base_model_prefix, backbone)
    return model, (made - lost) | {f"{model.base_model_prefix}.{key}" for key in new_keys(loaded)}


def _of_backbone(model: Any, keys: Collection[str]) -> set[str]:
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    return {key for key in keys if key.startswith(prefix) and "pooler" not in key.split(".")}
