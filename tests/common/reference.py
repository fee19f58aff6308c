"""The specification of directions, ĝ and the optimiser steps once more, in pure Python without numpy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
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


def words(run_key: int, seed: int, indices: Sequence[int]) -> dict[int, int]:
    """Some 64-bit words of a direction by their index."""
    blocks = {
        number: philox4x64([number + 1, 0, 0, 0], [run_key, seed]) for number in {index // 4 for index in indices}
    }
    return {index: blocks[index // 4][index % 4] for index in indices}


def direction_bits(run_key: int, seed: int, start: int, stop: int) -> list[int]:
    found = words(run_key, seed, range(start // 64, stop // 64 + 1))
    return [found[i // 64] >> i % 64 & 1 for i in range(start, stop)]


def integers(distribution: str, run_key: int, seed: int, start: int, stop: int) -> list[int]:
    """A direction in whole units: of 1 for rademacher, of 1/4 for gaussian."""
    if distribution == "rademacher":
        return [2 * bit - 1 for bit in direction_bits(run_key, seed, start, stop)]
    found = words(run_key, seed, range(start, stop))
    return [found[i].bit_count() - 32 for i in range(start, stop)]


def weighted_sum(
    distribution: str, run_key: int, seeds: Sequence[int], coefficients: Sequence[int], start: int, stop: int
) -> list[int]:
    total = [0] * (stop - start)
    for seed, coefficient in zip(seeds, coefficients, strict=True):
        for i, value in enumerate(integers(distribution, run_key, seed, start, stop)):
            total[i] += coefficient * value
    return total


def float32(value: float) -> float:
    """The nearest float32. A float64 operation followed by this is the float32 operation (53 ≥ 2·24 + 2 bits)."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def forward_gradient(
    distribution: str, run_key: int, seeds: Sequence[int], coefficients: Sequence[int], start: int, stop: int
) -> list[float]:
    total = weighted_sum(distribution, run_key, seeds, coefficients, start, stop)
    unit = {"rademacher": 1, "gaussian": 4}[distribution]
    return [float32(float(value) / float(len(seeds) * SCALE * unit)) for value in total]


def root_mean_square(vector: Sequence[float]) -> float:
    """Of an exact sum of exact squares, rounded once to float64 before the division and the root."""
    return float32(sqrt(float(sum(Fraction(value) ** 2 for value in vector)) / len(vector)))


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
        rule = {"sgd": self._sgd, "momentum": self._momentum, "adam": self._adam}.get(self.kind, self._average)
        directions = [rule(i, g) for i, g in enumerate(gradient)]
        if self.kind in ("normalized", "trust-ratio"):
            length = root_mean_square(directions)
            if length == 0:
                return theta
            directions = [float32(x / length) for x in directions]
        if self.kind == "trust-ratio":
            learning_rate = float32(learning_rate * max(root_mean_square(theta), float32(0.01)))
        return [float32(x - float32(learning_rate * each)) for x, each in zip(theta, directions, strict=True)]

    def _sgd(self, i: int, gradient: float) -> float:
        return gradient

    def _momentum(self, i: int, gradient: float) -> float:
        self.first[i] = float32(float32(self.first[i] * self.beta1) + gradient)
        return self.first[i]

    def _average(self, i: int, gradient: float) -> float:
        rest = float32(1 - self.beta1)
        self.first[i] = float32(float32(self.first[i] * self.beta1) + float32(rest * gradient))
        return self.first[i]

    def _adam(self, i: int, gradient: float) -> float:
        rest2 = float32(1 - self.beta2)
        square = float32(gradient * gradient)
        self.second[i] = float32(float32(self.second[i] * self.beta2) + float32(rest2 * square))
        mean = float32(self._average(i, gradient) / float32(1 - self.decay1))
        spread = float32(sqrt(float32(self.second[i] / float32(1 - self.decay2))))
        return float32(mean / float32(spread + self.epsilon))
