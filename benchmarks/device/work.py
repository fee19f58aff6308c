"""What is measured: each method does one unit of work on a batch of true size, the same one for all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_client.engine import DeviceEngines, DirectionTask, Engine
from fwdllm_client.engine.batches import Group, text_of
from fwdllm_client.engine.sessions import Cpu
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.directions import Directions
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, Manifest

if TYPE_CHECKING:
    from benchmarks.device.shapes import Shape

BATCH = 8
TOKENS = 64
DIRECTIONS = 24
"""What a round of the preset ``upper-layers`` asks of each of its 20 devices in the layers."""
HEAD_DIRECTIONS = 205
"""What a round of both presets, ``default`` and ``upper-layers``, asks of each in the head."""
THETA_FILE = "theta.npy"
_SEED = 1
_EPSILON = 1e-3


@dataclass(frozen=True)
class Workplace:
    """A bundle with its θ₀ in ``bundle``, and the device's ``cache``, which stays from process to process."""

    shape: str
    bundle: Path
    cache: Path
    threads: int
    vocabulary: int
    directions: int = DIRECTIONS
    batch: int = BATCH
    steps: int = 3
    """Timed ones in a process, the least of which counts."""

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return Manifest.from_bytes((self.bundle / MANIFEST_FILE).read_bytes())

    @property
    def theta(self) -> Float32Vector:
        """θ₀, float32 ``[d]``."""
        theta: Float32Vector = np.load(self.bundle / THETA_FILE)
        return theta

    @property
    def rows(self) -> Dataset:
        """A batch of random tokens, all texts equally long."""
        random = np.random.default_rng(_SEED)
        tokens = random.integers(2, self.vocabulary, self.batch * TOKENS).astype(np.int32)
        offsets = np.arange(self.batch + 1, dtype=np.int64) * TOKENS
        return Dataset(tokens, offsets, random.integers(0, 4, self.batch).astype(np.int32))


Step = Callable[[], object]
"""Does the unit of work once."""


@dataclass(frozen=True)
class Method:
    """``make`` returns the step, ``units`` says how many of what is compared a step holds."""

    title: str
    make: Callable[[Workplace], Step]
    units: Callable[[Workplace], int] = lambda _: 1


def _inference(place: Workplace) -> Step:
    """The whole batch through the whole model, as a program that only predicts would do it."""
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
        from benchmarks.device.backprop import training_step

        return training_step(method, shape_called(place.shape), place.rows, place.threads)

    return make


def shape_called(name: str) -> Shape:
    """The shape of that name; loads PyTorch, which the device's own methods do without."""
    from benchmarks.device.shapes import QUICK_SHAPE, SHAPES

    return {**SHAPES, QUICK_SHAPE.name: QUICK_SHAPE}[name]


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
