"""A training step by backpropagation, in PyTorch with PEFT's LoRA: what the device is spared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.convergence.encoder import batch_of
from benchmarks.device.shapes import Shape, new_model
from fwdllm_client.data import Dataset
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.peft.methods import apply_peft

_RATE = 1e-4
_LORA = PeftSpec(rank=4, alpha=8.0, targets=["query", "value"])


def training_step(method: str, shape: Shape, rows: Dataset, threads: int) -> Callable[[], object]:
    """AdamW on all ``rows`` at once: ``full``, ``lora`` or ``lora-checkpointing``; LoRA is in every layer."""
    if threads:
        torch.set_num_threads(threads)
    model: Any = new_model(shape)
    if method == "lora-checkpointing":
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    if method == "full":
        model.requires_grad_(True)
    else:
        model = apply_peft(model, _LORA, seed=1)
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_RATE)
    batch = batch_of(rows, np.arange(len(rows)))

    def step() -> object:
        optimizer.zero_grad()
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        torch.autograd.backward(functional.cross_entropy(logits, batch.labels))
        optimizer.step()
        return None

    return step
