"""The trainable parameters of a PEFT model as the vector θ."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from fwdllm_common.layout import Float32Vector, Layout, TensorSpec
from fwdllm_server.model.architecture import head_name
from fwdllm_server.model.modeling_fwdllm import SideModules

PEFT_BLOCK = "peft"
POOLING_BLOCK = "pooling"
READOUT_BLOCK = "readout"
HEAD_BLOCK = "head"
_ORDER = (PEFT_BLOCK, POOLING_BLOCK, READOUT_BLOCK, HEAD_BLOCK)


def trainable_layout(model: PeftModel, one_block: bool = False) -> Layout:
    """Return the layout of θ: the trainable tensors by their key in the saved adapter, block "peft" before "head".

    With ``one_block`` the head belongs to block "peft" too, so that one direction covers all of θ. Side modules have
    blocks "pooling" and "readout" in place of "peft".

    :raises BadInputError: nothing is trainable.
    """
    parameters = saved_parameters(model)
    blocks = {} if one_block else _blocks(model)
    specs = [
        TensorSpec(key, tuple(parameter.shape), blocks.get(id(parameter), PEFT_BLOCK))
        for key, parameter in parameters.items()
        if parameter.requires_grad
    ]
    return Layout(tuple(sorted(specs, key=lambda spec: _ORDER.index(spec.block))))


def initial_theta(model: PeftModel, layout: Layout) -> Float32Vector:
    """Return a copy of the model's current θ, float32 ``[d]``."""
    parameters = saved_parameters(model)
    return layout.pack({spec.name: parameters[spec.name].detach().float().cpu().numpy() for spec in layout.tensors})


def saved_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """Return the live parameters by their key in PEFT's adapter file, in the model's order.

    PEFT's saved tensors share their storage with the parameters, which matches the two without PEFT's naming rules.
    """
    saved: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    keys = {tensor.data_ptr(): key for key, tensor in saved.items()}
    module: Any = model
    return {keys[parameter.data_ptr()]: parameter for parameter in module.parameters() if parameter.data_ptr() in keys}


def _blocks(model: PeftModel) -> dict[int, str]:
    """Return the block of each parameter by its identity (``id``), where it is not the block "peft"."""
    classifier: Any = model.get_base_model()
    owners: list[tuple[str, nn.Module]] = [(HEAD_BLOCK, classifier.get_submodule(head_name(classifier)))]
    for module in classifier.modules():
        if isinstance(module, SideModules):
            owners += [(POOLING_BLOCK, module.pooling), (READOUT_BLOCK, module.readout)]
    return {id(parameter): block for block, owner in owners for parameter in owner.parameters()}
