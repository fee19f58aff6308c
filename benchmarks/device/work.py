"""What is measured: each method does one unit of work on a batch of true size, the same one for all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device.workplace import HEAD_DIRECTIONS, TOKENS, Workplace
from fwdllm_client.engine import DeviceEngines, DirectionTask, Engine
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_client.engine.sessions import Cpu
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.directions import Directions

_SEED = 1
_EPSILON = 1e-3

Step = Callable[[], object]
"""Does the unit of work once."""


@dataclass(frozen=True)
class Method:
    """``make`` returns the step, ``units`` says how many of what is compared a step holds."""

    title: str
    make: Callable[[Workplace], Step]
    units: Callable[[Workplace], int] = lambda _: 1


def _inference(place: Workplace) -> Step:
    """Return a step that runs the batch through the whole model, as a program that only predicts does."""
    chain, data, theta = StageChain(place.bundle, place.manifest, Cpu(), place.threads), place.rows, place.theta
    text = text_of(data, Group(np.arange(place.batch), TOKENS), chain.manifest.pad_token_id)

    def step() -> object:
        activation: Any = None
        for stage in range(chain.last):
            copies = chain.theta_of(stage, theta) if stage >= chain.manifest.frozen else None
            activation = chain.activation(stage, text, activation, copies)
        head = [chain.theta_of(chain.last, theta)]
        return chain.loss(chain.last, text, activation, data.labels.astype(np.int64), head, outputs=("logits",))

    return step


def _assignment(place: Workplace, engine: Engine, block: str, directions: int) -> Step:
    drawn, theta, seeds = Directions(_SEED), place.theta, np.arange(directions, dtype=np.uint64)
    task = DirectionTask(block, seeds, _EPSILON, place.batch)
    return lambda: list(engine.derivatives(theta, drawn, task, np.arange(place.batch)))


def _upper_layers(place: Workplace) -> Step:
    return _assignment(place, _engine(place), _layers_block(place), place.directions)


def _head(place: Workplace) -> Step:
    return _assignment(place, _engine(place), "head", HEAD_DIRECTIONS)


def _engine(place: Workplace) -> Engine:
    engines = DeviceEngines(place.bundle, place.manifest, place.rows, place.cache, place.threads)
    return engines.open(engines.tuner.tuning())


def _layers_block(place: Workplace) -> str:
    return next(iter(place.manifest.layout.blocks))


def _without_cache(place: Workplace) -> Step:
    engines = DeviceEngines(place.bundle, place.manifest, place.rows, place.cache, place.threads)
    engine = engines.open(engines.tuner.tuning(), Path(tempfile.mkdtemp(dir=place.cache)))
    return _assignment(place, engine, _layers_block(place), place.directions)


def _torch(method: str) -> Callable[[Workplace], Step]:
    def make(place: Workplace) -> Step:
        # Here and not above: the device's own methods do without PyTorch, and are measured without it.
        from benchmarks.device.backprop import training_step
        from benchmarks.device.shapes import shape_called

        return training_step(method, shape_called(place.shape), place.rows, place.threads)

    return make


def _directions(place: Workplace) -> int:
    return place.directions


METHODS: Mapping[str, Method] = {
    "inference": Method("plain inference", _inference),
    "derivative-head": Method("a directional derivative of the head", _head, lambda _: HEAD_DIRECTIONS),
    "derivative": Method("a directional derivative of the upper layers", _upper_layers, _directions),
    "derivative-no-cache": Method("the same, no cache", _without_cache, _directions),
    "torch-full": Method("backpropagation, all weights", _torch("full")),
    "torch-lora": Method("backpropagation, LoRA", _torch("lora")),
    "torch-lora-checkpointing": Method("backpropagation, LoRA, checkpointing", _torch("lora-checkpointing")),
}
FIRST_START = "first-start"
"""The first process with a model: it tunes itself and prepares the weights; only its memory and time are told."""


def names() -> Sequence[str]:
    """All that is measured in processes of its own."""
    return [FIRST_START, *METHODS]
