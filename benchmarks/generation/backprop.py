"""The reference: LoRA by backpropagation with PEFT and PyTorch, on the same tokens, rate and epoch by validation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

from benchmarks.generation.rows import Files, tokenised
from fwdllm_client.tasks.causal_lm.tokens import CompletionDataset

RATES = (1e-3, 3e-3)
EPOCHS = 2
_RANK, _ALPHA, _BATCH, _SEED = 8, 16, 8, 1
_WARM_UP = 0.05


@dataclass(frozen=True)
class Measured:
    """The mean loss over tokens, and the share of rows whose every token is the most probable one."""

    loss: float
    exact_match: float


def lora(files: Files, rate: float, epochs: int) -> list[Mapping[str, Any]]:
    """Train with one rate; return what holds before and after each epoch. Made once and kept beside the rows."""
    kept = files.folder / f"lora-{rate:g}-{epochs}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_trained(files, rate, epochs), indent=1), encoding="utf-8")
    found: list[Mapping[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _trained(files: Files, rate: float, epochs: int) -> list[Mapping[str, Any]]:
    rows, random = tokenised(files), np.random.default_rng(_SEED)
    torch.manual_seed(_SEED)
    base = AutoModelForCausalLM.from_pretrained(files.model, dtype=torch.float32)
    config = LoraConfig(r=_RANK, lora_alpha=_ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate, weight_decay=0)
    steps = epochs * -(-len(rows.training) // _BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, round(_WARM_UP * steps), steps)
    found: list[Mapping[str, Any]] = []
    began = time.monotonic()
    for epoch in range(epochs + 1):
        if epoch:
            model.train()
            order = random.permutation(len(rows.training))
            for start in range(0, len(order), _BATCH):
                optimizer.zero_grad()
                torch.autograd.backward(_losses(model, rows.training, order[start : start + _BATCH])[0].mean())
                optimizer.step()
                schedule.step()
        model.eval()
        parts = {"validation": rows.validation, "test": rows.test}
        measured = {name: asdict(_measure(model, rows.held_out, part)) for name, part in parts.items()}
        found.append({"epoch": epoch, **measured, "seconds": round(time.monotonic() - began)})
        print(f"lora, rate {rate:g}: {found[-1]}", flush=True)
    return found


def _losses(model: Any, dataset: CompletionDataset, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return the loss of each token that is predicted, and whether it is the most probable one, after its row."""
    tokens = int(dataset.lengths[rows].max())
    is_text = np.arange(tokens) < dataset.lengths[rows, None]
    ids = np.zeros(is_text.shape, dtype=np.int64)
    ids[is_text] = np.concatenate([dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]] for row in rows])
    places, labels = dataset.targets(rows).transpose(2, 0, 1)
    of_row, of_token = np.nonzero(labels >= 0)
    causal = model.get_base_model()
    states = causal.model(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(is_text.astype(np.int64))
    ).last_hidden_state
    # As on devices, only what is predicted reaches the output matrix.
    logits = causal.lm_head(states[torch.from_numpy(of_row), torch.from_numpy(places[of_row, of_token])])
    wanted = torch.from_numpy(labels[of_row, of_token])
    is_right = torch.stack((torch.from_numpy(of_row), (logits.argmax(dim=1) == wanted).long()))
    return functional.cross_entropy(logits, wanted, reduction="none"), is_right


@torch.no_grad()
def _measure(model: Any, dataset: CompletionDataset, rows: NDArray[np.int64]) -> Measured:
    total, tokens, exact = 0.0, 0, 0
    for part in np.array_split(rows, -(-len(rows) // 16)):
        losses, (of_row, is_right) = _losses(model, dataset, part)
        total, tokens = total + float(losses.double().sum()), tokens + len(losses)
        exact += len(part) - len(torch.unique(of_row[is_right == 0]))
    return Measured(total / tokens, exact / len(rows))
