"""The benchmark's encoder in PyTorch: rows as tensors, features, evaluation, and what share of a pass its parts are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer

from benchmarks.convergence.curves import Final
from benchmarks.convergence.tasks import Task, TaskFiles, read_rows
from examples.materials import minilm_folder
from fwdllm_client.data.dataset import Dataset
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_server.model.load import Pooling, load_base

Indices = NDArray[np.int64]

_EVALUATED_TOGETHER = 64


def load_encoder(task: Task, pooling: Pooling = "mean") -> nn.Module:
    """all-MiniLM-L6-v2 with a linear head of zeros on means over its tokens: what the presets start from."""
    return load_base(str(minilm_folder()), task.labels, pooling)


def tokenised(files: TaskFiles, *parts: str) -> list[Dataset]:
    """Return the rows of parts such as ``training`` or ``test`` as the device reads them."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    class_of = {label: index for index, label in enumerate(files.task.labels)}
    datasets = []
    for part in parts:
        rows = read_rows(getattr(files, part))
        ids = tokenizer([row.text for row in rows], truncation=True, max_length=files.max_tokens)["input_ids"]
        tokens = np.concatenate([np.array(row, dtype=np.int32) for row in ids])
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        datasets.append(Dataset(tokens, offsets, np.array([class_of[row.label] for row in rows], dtype=np.int32)))
    return datasets


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest of them; ``labels`` int64 ``[N]``."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def batch_of(dataset: Dataset, rows: Indices) -> Batch:
    """Return these rows of the dataset, padded to the longest."""
    text = text_of(dataset, Group(rows, int(dataset.lengths[rows].max())), pad_token_id=0)
    labels = dataset.labels[rows].astype(np.int64)
    return Batch(torch.from_numpy(text.input_ids), torch.from_numpy(text.attention_mask), torch.from_numpy(labels))


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    return functional.cross_entropy(_logits(model, batch), batch.labels)


def features_of(model: nn.Module, dataset: Dataset) -> NDArray[np.float64]:
    """Return what the head reads, float64 ``[rows, width]``."""
    found: list[Tensor] = []
    hook = model.get_submodule("classifier").register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    order = _by_length(dataset)
    with torch.no_grad():
        for rows in order:
            _logits(model, batch_of(dataset, rows))
    hook.remove()
    features = np.empty((len(dataset), found[0].shape[1]))
    features[np.concatenate(order)] = torch.cat(found).numpy()
    return features


def evaluate(model: nn.Module, dataset: Dataset) -> Final:
    """Compute the metrics of every row."""
    order = _by_length(dataset)
    with torch.no_grad():
        logits = torch.cat([_logits(model, batch_of(dataset, rows)) for rows in order])
    labels = list(map(str, range(logits.shape[1])))
    return Final.of(labels, dataset.labels[np.concatenate(order)].tolist(), logits.softmax(dim=1).tolist())


@dataclass(frozen=True)
class PassShares:
    """Parts of a forward pass by the weights that a token is multiplied with, as the exporter counts them."""

    layers: Sequence[int]
    head: int

    @classmethod
    def of(cls, model: nn.Module) -> PassShares:
        """Of a model that nothing has been added to."""
        weights: dict[int, int] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and (match := re.search(r"\.layer\.(\d+)\.", name)):
                weights[int(match[1])] = weights.get(int(match[1]), 0) + module.weight.numel()
        head: Any = model.get_submodule("classifier")
        return cls([weights[layer] for layer in sorted(weights)], head.weight.numel())

    def from_layer(self, layer: int) -> float:
        """Return the share of this layer and those above it."""
        return sum(self.layers[layer:]) / sum(self.layers)

    def of_head(self, tokens: float) -> float:
        """Return the share of the head, for texts of so many tokens."""
        return self.head / (sum(self.layers) * tokens)


def _logits(model: Any, batch: Batch) -> Tensor:
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits


def _by_length(dataset: Dataset) -> list[Indices]:
    order = np.argsort(dataset.lengths, kind="stable")
    return list(_pieces(order, _EVALUATED_TOGETHER))


def _pieces(order: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
