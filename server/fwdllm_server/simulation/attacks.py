"""What simulated devices that lie send instead of what they measured."""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.fixed_point import MAX_MAGNITUDE

Attack: TypeAlias = Literal["flip", "large", "constant", "random", "nan", "flip-large"]
"""``flip`` the sign; ``large``, the largest magnitude that is accepted with a random sign; ``constant``, 1; ``random``,
normal numbers as large as the measured; ``nan``; ``flip-large``, the largest magnitude with the sign flipped, which
after clipping is the most that a device can do."""


def attacked(attack: Attack, measured: NDArray[np.float64], assignment_id: str) -> NDArray[np.float64]:
    """What a device sends, float64 ``[directions]``; the same for the same assignment."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(assignment_id.encode())))
    if attack == "flip":
        return -measured
    if attack == "large":
        return MAX_MAGNITUDE * np.where(generator.random(len(measured)) < 0.5, -1.0, 1.0)
    if attack == "constant":
        return np.ones(len(measured))
    if attack == "random":
        return generator.normal(scale=float(np.sqrt(np.mean(np.square(measured)))), size=len(measured))
    if attack == "nan":
        return np.full(len(measured), np.nan)
    return np.where(measured > 0, -float(MAX_MAGNITUDE), float(MAX_MAGNITUDE))
