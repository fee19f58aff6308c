"""Compute the true gradient by backpropagation, with which scalars are compared."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch.nn import functional

from fwdllm_client.data import Dataset
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_server.model.trainable import saved_parameters


def true_gradient(
    model: PeftModel, layout: Layout, theta: Float32Vector, dataset: Dataset, rows: NDArray[np.int64]
) -> Float32Vector:
    """Return the gradient, float32 ``[d]``, of the mean loss over ``rows`` at ``theta``, float32 ``[d]``.

    The model's weights are set to ``theta``.
    """
    named = saved_parameters(model)
    parameters = {spec.name: named[spec.name] for spec in layout.tensors}
    with torch.no_grad():
        for name, value in layout.unpack(theta).items():
            parameters[name].copy_(torch.from_numpy(value.copy()))
    model.zero_grad(set_to_none=True)
    for row in rows:  # one by one, so that no row is padded
        ids = torch.from_numpy(dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]].astype(np.int64))
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits
        loss = functional.cross_entropy(logits, torch.tensor([int(dataset.labels[row])]))
        (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: np.zeros(tuple(parameter.shape), np.float32) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in parameters.items()
    }
    return layout.pack(gradients)
