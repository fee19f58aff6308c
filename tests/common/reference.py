"""The specification of directions, ĝ and the optimiser steps once more, in pure Python without numpy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

MASK = (1 << 64) - 1
SCALE = 1 << 24


def philox4x64(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x64-10 as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (product1 >> 64) ^ c1 ^ k0, product1 & MASK, (product0 >> 64) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def direction_bits(run_key: int, seed: int, start: int, stop: int) -> list[int]:
    blocks = {
        number: philox4x64([number, 0, 0, 0], [run_key, seed]) for number in range(start // 256 + 1, stop // 256 + 2)
    }
    return [blocks[i // 256 + 1][i % 256 // 64] >> i % 64 & 1 for i in range(start, stop)]


def float32(value: float) -> float:
    """The nearest float32. A float64 operation followed by this is the float32 operation (53 ≥ 2·24 + 2 bits)."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def forward_gradient(
    run_key: int, seeds: Sequence[int], coefficients: Sequence[int], start: int, stop: int
) -> list[float]:
    total = [0] * (stop - start)
    for seed, coefficient in zip(seeds, coefficients, strict=True):
        for i, bit in enumerate(direction_bits(run_key, seed, start, stop)):
            total[i] += coefficient if bit else -coefficient
    return [float32(float(value) / float(len(seeds) * SCALE)) for value in total]


@dataclass
class Optimizer:
    """One block's optimiser, coordinate by coordinate; every operation is rounded to float32."""

    kind: str
    beta1: float
    beta2: float
    epsilon: float
    size: int
    first: list[float] = field(init=False)
    second: list[float] = field(init=False)
    decay1: float = 1.0
    decay2: float = 1.0

    def __post_init__(self) -> None:
        self.beta1, self.beta2, self.epsilon = float32(self.beta1), float32(self.beta2), float32(self.epsilon)
        self.first, self.second = [0.0] * self.size, [0.0] * self.size

    def step(self, theta: list[float], gradient: Sequence[float], learning_rate: float) -> list[float]:
        self.decay1, self.decay2 = float32(self.decay1 * self.beta1), float32(self.decay2 * self.beta2)
        directions = {"sgd": self._sgd, "momentum": self._momentum, "adam": self._adam}[self.kind]
        return [
            float32(x - float32(learning_rate * directions(i, g)))
            for i, (x, g) in enumerate(zip(theta, gradient, strict=True))
        ]

    def _sgd(self, i: int, gradient: float) -> float:
        return gradient

    def _momentum(self, i: int, gradient: float) -> float:
        self.first[i] = float32(float32(self.first[i] * self.beta1) + gradient)
        return self.first[i]

    def _adam(self, i: int, gradient: float) -> float:
        rest1, rest2 = float32(1 - self.beta1), float32(1 - self.beta2)
        square = float32(gradient * gradient)
        self.first[i] = float32(float32(self.first[i] * self.beta1) + float32(rest1 * gradient))
        self.second[i] = float32(float32(self.second[i] * self.beta2) + float32(rest2 * square))
        mean = float32(self.first[i] / float32(1 - self.decay1))
        spread = float32(sqrt(float32(self.second[i] / float32(1 - self.decay2))))
        return float32(mean / float32(spread + self.epsilon))
