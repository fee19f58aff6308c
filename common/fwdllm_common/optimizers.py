"""The coordinator's optimiser steps, bit for bit the same on every machine.

Every step is a sequence of separate float32 element-wise operations (+ − × ÷ √), which IEEE 754 defines exactly.
No power function, no fused kernel, no BLAS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector

OptimizerKind: TypeAlias = Literal["sgd", "momentum", "adam", "normalized", "trust-ratio"]

TRUST_FLOOR = np.float32(0.01)
"""The root mean square below which a block's weights count as this: a block that starts at zero could not leave it."""
_ONE = np.float32(1)
_MOMENTS: dict[OptimizerKind, int] = {"sgd": 0, "momentum": 1, "adam": 2, "normalized": 1, "trust-ratio": 1}


@dataclass(frozen=True)
class OptimizerSettings:
    """What the whole run uses; the learning rate comes with each step.

    ``beta1`` is the momentum (Adam's first) decay, ``beta2`` Adam's second, ``epsilon`` Adam's denominator offset;
    ``weight_decay`` the share of θ that a step of rate 1 takes off; all are rounded to float32.

    :raises BadInputError: a decay is not within [0, 1), ``epsilon`` not above 0 or ``weight_decay`` below 0, once
        rounded.
    """

    kind: OptimizerKind
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "epsilon", "weight_decay"):
            given = getattr(self, name)
            with np.errstate(over="ignore"):
                value = float(np.float32(given))
            if name == "epsilon" and not 0 < value < math.inf:
                raise BadInputError(f"optimiser: epsilon is {given}, as float32 it must be above 0 and finite")
            if name == "weight_decay" and not 0 <= value < math.inf:
                raise BadInputError(f"optimiser: weight_decay is {given}, as float32 it must be at least 0 and finite")
            if name.startswith("beta") and not 0 <= value < 1:
                raise BadInputError(f"optimiser: {name} is {given}, as float32 it must be at least 0 and below 1")
            object.__setattr__(self, name, value)


@dataclass
class OptimizerState:
    """What one block of θ carries from step to step.

    ``first`` and ``second`` are the moments, float32 ``[block size]``, empty where the optimiser has none;
    ``decay1`` and ``decay2`` are the running products β₁ᵗ and β₂ᵗ, float32.
    """

    first: Float32Vector
    second: Float32Vector
    decay1: np.float32 = field(default=_ONE)
    decay2: np.float32 = field(default=_ONE)

    @classmethod
    def zeros(cls, settings: OptimizerSettings, size: int) -> OptimizerState:
        """Return the state before the first step."""
        moments = _MOMENTS[settings.kind]
        return cls(
            np.zeros(size if moments > 0 else 0, dtype=np.float32),
            np.zeros(size if moments > 1 else 0, dtype=np.float32),
        )


def step(
    settings: OptimizerSettings,
    state: OptimizerState,
    theta: Float32Vector,
    gradient: Float32Vector,
    learning_rate: np.float32,
) -> None:
    """Step ``theta`` (one block, changed in place together with ``state``) against ``gradient``.

    SGD: θ ← θ − ηg. Momentum (heavy ball): m ← β₁m + g, θ ← θ − ηm. Adam (Kingma & Ba 2015, algorithm 1) with bias
    correction, its powers of β kept as running products. Normalized: m ← β₁m + (1 − β₁)g, θ ← θ − ηm/RMS(m), a step
    of root mean square η whatever the gradient's. Trust ratio (You et al. 2017): the same, η times RMS(θ).
    Weight decay is decoupled (Loshchilov & Hutter 2019): before the step θ ← θ − ηλθ.
    """
    if settings.weight_decay:
        theta -= (learning_rate * np.float32(settings.weight_decay)) * theta
    if settings.kind == "sgd":
        theta -= learning_rate * gradient
    elif settings.kind == "momentum":
        state.first *= np.float32(settings.beta1)
        state.first += gradient
        theta -= learning_rate * state.first
    elif settings.kind == "adam":
        _adam(settings, state, theta, gradient, learning_rate)
    else:
        state.first *= np.float32(settings.beta1)
        state.first += (_ONE - np.float32(settings.beta1)) * gradient
        length = _root_mean_square(state.first)
        if length > 0:
            if settings.kind == "trust-ratio":
                learning_rate = learning_rate * max(_root_mean_square(theta), TRUST_FLOOR)
            theta -= learning_rate * (state.first / length)


def _adam(
    settings: OptimizerSettings,
    state: OptimizerState,
    theta: Float32Vector,
    gradient: Float32Vector,
    learning_rate: np.float32,
) -> None:
    beta1, beta2 = np.float32(settings.beta1), np.float32(settings.beta2)
    state.first *= beta1
    state.first += (_ONE - beta1) * gradient
    state.second *= beta2
    state.second += (_ONE - beta2) * (gradient * gradient)
    state.decay1 = np.float32(state.decay1 * beta1)
    state.decay2 = np.float32(state.decay2 * beta2)
    mean = state.first / (_ONE - state.decay1)
    spread = np.sqrt(state.second / (_ONE - state.decay2))
    theta -= learning_rate * (mean / (spread + np.float32(settings.epsilon)))


def _root_mean_square(vector: Float32Vector) -> np.float32:
    # A square of a float32 is exact in float64, and fsum rounds once: the sum has no order either.
    squares = vector.astype(np.float64)
    squares *= squares
    return np.float32(math.sqrt(math.fsum(squares.tolist()) / len(vector)))
