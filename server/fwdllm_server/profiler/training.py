"""Train a candidate on public rows with exact gradients: what its forward gradients would come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor

from fwdllm_client.data import Dataset
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_client.tasks import task_named as device_task_named
from fwdllm_common.counts import Counts
from fwdllm_common.layout import Layout
from fwdllm_server.model.logits import logits_of
from fwdllm_server.model.trainable import saved_parameters
from fwdllm_server.tasks import task_named

Rows = NDArray[np.int64]

_BATCH = 16
_BETAS = (0.9, 0.99)


@dataclass(frozen=True, eq=False)
class Epoch:
    """After so many ``visits`` of training rows: the loss of each validation row, float64 ``[rows]``, and the score."""

    visits: int
    losses: NDArray[np.float64]
    score: float

    @property
    def loss(self) -> float:
        """The mean over the validation rows, nats."""
        return float(self.losses.mean())


@dataclass(frozen=True, eq=False)
class Learner:
    """A model whose weights of the ``layout`` learn the rows of a dataset for a task."""

    model: PeftModel
    layout: Layout
    dataset: Dataset
    task: str
    pad_token_id: int
    separator: int | None = None

    def epochs(
        self, training: Rows, validation: Rows, count: int, rates: Mapping[str, float], seed: int
    ) -> Iterator[Epoch]:
        """Yield the state at first and after each of ``count`` epochs of Adam with these ``rates`` of the blocks."""
        random = np.random.default_rng(seed)
        optimizer = self._optimizer(rates)
        yield self._validated(0, validation)
        for epoch in range(1, count + 1):
            order = random.permutation(training)
            for start in range(0, len(order), _BATCH):
                optimizer.zero_grad()
                losses, _ = self._outcome(order[start : start + _BATCH])
                torch.autograd.backward(losses.mean())
                optimizer.step()
            yield self._validated(epoch * len(training), validation)

    def _optimizer(self, rates: Mapping[str, float]) -> torch.optim.Adam:
        parameters = saved_parameters(self.model)
        groups = [{"params": [parameters[spec.name]], "lr": rates[spec.block]} for spec in self.layout.tensors]
        return torch.optim.Adam(groups, betas=_BETAS)

    @torch.no_grad()
    def _validated(self, visits: int, rows: Rows) -> Epoch:
        named, found, losses = device_task_named(self.task), Counts(0, 0), []
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            loss, logits = self._outcome(batch)
            losses.append(loss.double().numpy())
            found = found.plus(named.counts(self.dataset, batch, logits.numpy()))
        score = (found.correct if found.f1 is None else found.f1) / found.total
        return Epoch(visits, np.concatenate(losses), score)

    def _outcome(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return losses ``[N]`` and logits ``[N, …]`` of rows, padded to the longest of them."""
        named, tokens = task_named(self.task), int(self.dataset.lengths[rows].max())
        text = text_of(self.dataset, Group(rows, tokens), self.pad_token_id)
        ids, mask = torch.from_numpy(text.input_ids), torch.from_numpy(text.attention_mask)
        labels = torch.from_numpy(self.dataset.targets(rows, tokens))
        base: Any = self.model.get_base_model()
        logits = logits_of(base, ids, mask, self.separator, named.positions(labels))
        return named.losses(logits, labels, mask), logits


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the least loss."""
    return min(epochs, key=lambda epoch: epoch.loss)
