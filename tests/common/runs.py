"""Small runs to replay, and the values that strategies of more than one test module draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from hypothesis import strategies as st

from fwdllm_common.directions import Directions, Distribution
from fwdllm_common.layout import Float32Vector, Layout, TensorSpec
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.optimizers import OptimizerKind, OptimizerSettings
from fwdllm_common.replay import ModelState, theta_digest

RUN_KEY = 0xF00D_FACE_0123_4567
LAYOUT = Layout(
    (TensorSpec("lora_A", (16, 20), "peft"), TensorSpec("lora_B", (7,), "peft"), TensorSpec("bias", (6,), "head"))
)
KINDS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)

uint64 = st.integers(0, 2**64 - 1)
seeds = st.one_of(uint64, st.integers(2**64 - 8, 2**64 - 1), st.integers(0, 8))
coefficients = st.integers(-(2**34), 2**34)
directions = st.lists(st.tuples(seeds, coefficients), min_size=1, max_size=8)


def initial_theta(layout: Layout = LAYOUT) -> Float32Vector:
    return (np.arange(layout.size, dtype=np.float32) - np.float32(100)) / np.float32(64)


def initial_state(
    kind: OptimizerKind,
    layout: Layout = LAYOUT,
    distribution: Distribution = "rademacher",
    orthogonal: Sequence[str] = (),
    weight_decay: float = 0.0,
) -> ModelState:
    theta = initial_theta(layout)
    directions = Directions(RUN_KEY, distribution)
    settings = OptimizerSettings(kind, weight_decay=weight_decay)
    header = RunHeader(directions, layout.digest, theta_digest(theta), settings, tuple(orthogonal))
    return ModelState.initial(header, layout, theta)


def update(block: str, directions: Sequence[tuple[int, int]], learning_rate: float = 0.01) -> BlockUpdate:
    return BlockUpdate(
        block,
        np.array([seed for seed, _ in directions], dtype=np.uint64),
        np.array([coefficient for _, coefficient in directions], dtype=np.int64),
        np.float32(learning_rate),
    )


def round_of(version: int, directions: int = 5) -> LedgerEntry:
    """Round ``version`` of a fixed made-up run: both blocks, seeds and coefficients from integer arithmetic."""
    numbers = range(version * 1000, version * 1000 + directions)
    drawn = [
        (n * 0x9E3779B97F4A7C15 % 2**64, n * 0xBB67AE8584CAA73B % 2**26 - 2**25)  # ±2 in fixed point
        for n in numbers
    ]
    return LedgerEntry(version, (update("peft", drawn), update("head", drawn, 0.05)), b"")


def known_digest(
    kind: OptimizerKind, rounds: int, distribution: Distribution = "rademacher", generator: int = 1
) -> str:
    """θ's hash after ``rounds`` rounds of the made-up run; generator 2 has orthogonal directions and weight decay."""
    newer = {"orthogonal": tuple(LAYOUT.blocks), "weight_decay": 0.1} if generator == 2 else {}
    state = initial_state(kind, distribution=distribution, **newer)  # type: ignore[arg-type]
    for version in range(1, rounds + 1):
        state.advance(round_of(version))
    return state.digest.hex()
