"""The false scalars that simulated Byzantine devices send."""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.fixed_point import MAX_MAGNITUDE

Attack: TypeAlias = Literal["flip", "large", "constant", "random", "nan", "flip-large"]
"""The kind of an attack.

``flip``: the flipped sign. ``large``: the largest accepted magnitude with a random sign. ``constant``: 1. ``random``:
normal numbers of the measured magnitude. ``nan``: NaN. ``flip-large``: the largest accepted magnitude with the flipped
sign, which is the strongest attack after clipping.
"""


def attacked(attack: Attack, measured: NDArray[np.float64], assignment_id: str) -> NDArray[np.float64]:
    """Return the scalars that a device sends instead of ``measured``, float64 ``[directions]``.

    They are a function of the arguments, so that an assignment always gets the same ones.
    """
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
