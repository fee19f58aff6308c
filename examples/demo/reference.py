"""What the demo's figures are held against, computed with PyTorch: a linear probe, and the adapter loaded by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer

from fwdllm_server.cli.demo.bbc_news import TOPICS, Article
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.load import load_base

Rows = NDArray[np.float32]
Classes = NDArray[np.int64]

_BATCH = 32
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def probe_accuracy(source: Path, max_tokens: int, training: Sequence[Article], held_out: Sequence[Article]) -> float:
    """Held-out accuracy of ridge regression on the frozen model's pooled features, all training rows in one place.

    What beats it has learnt something below the head. The penalty is chosen on a fifth of the training rows.
    """
    model = load_base(str(source), TOPICS, "mean")
    rows, test_rows = (_predict(model, source, max_tokens, part)[0] for part in (training, held_out))
    classes, truth = _classes(training), _classes(held_out)
    centre, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    rows, test_rows = (rows - centre) / scale, (test_rows - centre) / scale
    fold = np.random.default_rng(0).permutation(len(rows)) % 5 == 0
    best = max(_PENALTIES, key=lambda p: _ridge_accuracy(p, rows[~fold], classes[~fold], rows[fold], classes[fold]))
    return _ridge_accuracy(best, rows, classes, test_rows, truth)


def adapter_accuracy(adapter: Path, source: Path, max_tokens: int, held_out: Sequence[Article]) -> float:
    """Held-out accuracy of the exported adapter as ``PeftModel.from_pretrained`` loads it."""
    model = PeftModel.from_pretrained(load_base_of(adapter), adapter).eval()
    _, logits = _predict(model, source, max_tokens, held_out)
    return float((logits.argmax(axis=1) == _classes(held_out)).mean())


def _predict(model: nn.Module, source: Path, max_tokens: int, articles: Sequence[Article]) -> tuple[Rows, Rows]:
    """Pooled features ``[rows, width]`` (what the head reads) and logits ``[rows, classes]``."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    features: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    head = next(module for name, module in model.named_modules() if name.endswith("classifier"))
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        for start in range(0, len(articles), _BATCH):
            texts = [article.text for article in articles[start : start + _BATCH]]
            batch = tokenizer(texts, truncation=True, max_length=max_tokens, padding=True, return_tensors="pt")
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            logits.append(output.logits)
    hook.remove()
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def _classes(articles: Sequence[Article]) -> Classes:
    return np.array([TOPICS.index(article.label) for article in articles])


def _ridge_accuracy(penalty: float, rows: Rows, classes: Classes, test_rows: Rows, truth: Classes) -> float:
    design = np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)
    targets = np.eye(len(TOPICS))[classes]
    weights = np.linalg.solve(design.T @ design + penalty * np.eye(design.shape[1]), design.T @ targets)
    predicted = (np.column_stack([test_rows, np.ones(len(test_rows))]) @ weights).argmax(axis=1)
    return float((predicted == truth).mean())
