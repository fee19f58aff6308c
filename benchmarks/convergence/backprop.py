"""The upper reference: LoRA by backpropagation, federated as FedSGD and FedAvg, with PEFT and PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.convergence.curves import Final, Point
from benchmarks.convergence.encoder import Indices, PassShares, batch_of, evaluate, load_encoder, loss_of, tokenised
from benchmarks.convergence.settings import FedAvgSettings, FedSgdSettings
from benchmarks.convergence.tasks import TaskFiles
from fwdllm_client.data.dataset import Dataset
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.simulation.population import Population

_BYTES_OF_A_WEIGHT = 4


@dataclass(frozen=True)
class _Task:
    """A model with LoRA, the rows, whose they are, and what a row costs."""

    model: nn.Module
    training: Dataset
    measured: Dataset
    test: Dataset
    shards: Sequence[Indices]
    row_passes: float

    @property
    def weights(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def adam(self, settings: FedSgdSettings) -> torch.optim.Adam:
        """Fresh, LoRA and the head each with its ``rate``."""
        trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        lora = [weight for name, weight in trained if "classifier" not in name]
        head = [weight for name, weight in trained if "classifier" in name]
        rates = ((lora, settings.learning_rate), (head, settings.head_learning_rate))
        return torch.optim.Adam([{"params": weights, "lr": rate, "rate": rate} for weights, rate in rates])

    @property
    def exchanged(self) -> int:
        """Bytes of the trained weights, or of their gradient."""
        return _BYTES_OF_A_WEIGHT * sum(parameter.numel() for parameter in self.weights)


def fedsgd(
    files: TaskFiles, population: Population, seed: int, settings: FedSgdSettings, measured_on: str
) -> Iterator[Point | Final]:
    """Train by FedSGD: a step is a round."""
    task = _prepare(files, population, seed, settings, measured_on)
    optimizer = task.adam(settings)
    random = np.random.default_rng(seed)

    def step(devices: Sequence[Indices], scale: float) -> int:
        batches = [random.choice(rows, min(settings.batch_size, len(rows)), replace=False) for rows in devices]
        total = sum(map(len, batches))
        optimizer.zero_grad()
        for rows in batches:
            torch.autograd.backward(loss_of(task.model, batch_of(task.training, rows)) * (len(rows) / total))
        _scale(optimizer, scale)
        optimizer.step()
        return total

    yield from _rounds(task, settings, random, step)


def fedavg(
    files: TaskFiles, population: Population, seed: int, settings: FedAvgSettings, measured_on: str
) -> Iterator[Point | Final]:
    """Train by FedAvg: a round is ``epochs`` over all rows of its devices."""
    task = _prepare(files, population, seed, settings, measured_on)
    random = np.random.default_rng(seed)

    def step(devices: Sequence[Indices], scale: float) -> int:
        start = [weight.detach().clone() for weight in task.weights]
        mean = [torch.zeros_like(weight) for weight in start]
        total = sum(map(len, devices))
        for rows in devices:
            _restore(task.weights, start)
            _train_on_device(task, rows, scale, settings, random)
            for average, weight in zip(mean, task.weights, strict=True):
                average += weight.detach() * (len(rows) / total)
        _restore(task.weights, mean)
        return total * settings.epochs

    yield from _rounds(task, settings, random, step)


def _prepare(files: TaskFiles, population: Population, seed: int, settings: FedSgdSettings, measured_on: str) -> _Task:
    training, measured, test = tokenised(files, "training", measured_on, "test")
    users = files.users if population.partition == "user" else None
    shards = [device.training for device in population.draw(training, files.task.labels, users)]
    base = load_encoder(files.task)
    shares = PassShares.of(base)
    count = len(shares.layers)
    layers = [layer % count for layer in settings.layers or range(count)]
    lora = PeftSpec(rank=settings.rank, alpha=settings.alpha, targets=["query", "value"], layers=layers)
    # A row goes forwards through all, and backwards (as two) to the lowest LoRA.
    row_passes = 1 + 2 * shares.from_layer(min(layers))
    return _Task(apply_peft(base, lora, seed), training, measured, test, shards, row_passes)


def _rounds(task: _Task, settings: FedSgdSettings, random: np.random.Generator, step: Any) -> Iterator[Point | Final]:
    passes, chosen = 0.0, min(settings.devices, len(task.shards))
    every = max(1, settings.rounds // settings.evaluations)
    for version in range(settings.rounds + 1):
        if version:
            devices = [task.shards[index] for index in random.choice(len(task.shards), chosen, replace=False)]
            scale = (1 + math.cos(math.pi * (version - 1) / settings.rounds)) / 2
            passes += step(devices, scale) * task.row_passes
        if version % every == 0 or version == settings.rounds:
            result, bytes_each_way = evaluate(task.model, task.measured), version * chosen * task.exchanged
            yield Point(
                version, result.accuracy, result.loss, passes, bytes_up=bytes_each_way, bytes_down=bytes_each_way
            )
    yield evaluate(task.model, task.test)


def _train_on_device(
    task: _Task, rows: Indices, scale: float, settings: FedAvgSettings, random: np.random.Generator
) -> None:
    optimizer = task.adam(settings)
    _scale(optimizer, scale)
    for _ in range(settings.epochs):
        order = random.permutation(rows)
        for start in range(0, len(order), settings.batch_size):
            optimizer.zero_grad()
            batch = batch_of(task.training, order[start : start + settings.batch_size])
            torch.autograd.backward(loss_of(task.model, batch))
            optimizer.step()


def _scale(optimizer: torch.optim.Optimizer, scale: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * scale


def _restore(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
