"""Scalars of strangers: one for each direction, none so large that it drowns the others (docs/security.md).

All of it is integers on fixed-point values, so that the same scalars give the same ledger entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import median
from typing import TypeAlias

from fwdllm_common.estimator import Scalar

RECENT = 5
"""Rounds whose scales a block's running scale is the median of: one round that is lies to its half moves it little."""

Scales: TypeAlias = Mapping[str, Sequence[int]]
"""The scales of the last :data:`RECENT` rounds of each block, the oldest first, in fixed point."""


def by_direction(scalars: Sequence[Scalar], devices: int) -> Sequence[Scalar]:
    """One scalar for each direction that ``devices`` devices have measured, by ascending seed.

    It is the mean of theirs without the lowest and the highest quarter, rounded up: for three, four and five devices
    the median. Each device counts alike, and the result is nobody's.
    """
    if devices == 1:
        return sorted(scalars, key=lambda scalar: scalar.seed)
    return [
        Scalar(seed, _trimmed_mean(values), device="", examples=1)
        for seed, values in sorted(_values(scalars).items())
        if len(values) >= devices
    ]


def directions_measured(scalars: Sequence[Scalar], devices: int) -> int:
    """How many directions have been measured by ``devices`` devices."""
    return len(scalars) if devices == 1 else sum(len(values) >= devices for values in _values(scalars).values())


def scale_of(scalars: Sequence[Scalar]) -> int:
    """How large scalars are: the median over devices of the median magnitude of each, so that each has one vote."""
    magnitudes: dict[str, list[int]] = defaultdict(list)
    for scalar in scalars:
        magnitudes[scalar.device].append(abs(scalar.value))
    return int(median([median(values) for values in magnitudes.values()]))


def rescale_devices(scalars: Sequence[Scalar], scale: int) -> Sequence[Scalar]:
    """Return the scalars, those of devices that are louder than ``scale`` as a whole made as loud as that.

    A device whose every scalar is at the bound of :func:`clipped` would count for three of the others. That goes for
    one of few scalars too: their median says little, but left alone they could outweigh everybody's.
    """
    magnitudes: dict[str, list[int]] = defaultdict(list)
    for scalar in scalars:
        magnitudes[scalar.device].append(abs(scalar.value))
    loud = {device: found for device, values in magnitudes.items() if (found := int(median(values))) > scale}
    return [
        replace(scalar, value=_scaled(scalar.value, scale, loud[scalar.device])) if scalar.device in loud else scalar
        for scalar in scalars
    ]


def clipped(scalars: Sequence[Scalar], bound: int) -> Sequence[Scalar]:
    """Return the scalars with no magnitude above ``bound``."""
    return [
        scalar if abs(scalar.value) <= bound else replace(scalar, value=max(-bound, min(bound, scalar.value)))
        for scalar in scalars
    ]


def running_scale(recent: Sequence[int], now: int) -> int:
    """Return the scale of a block over the last rounds, ``now`` being that of the present one."""
    return int(median([*recent, now][-RECENT:]))


def _values(scalars: Sequence[Scalar]) -> Mapping[int, list[int]]:
    values: dict[int, list[int]] = defaultdict(list)
    for scalar in scalars:
        values[scalar.seed].append(scalar.value)
    return values


def _scaled(value: int, numerator: int, denominator: int) -> int:
    size = abs(value) * numerator // denominator
    return size if value >= 0 else -size


def _trimmed_mean(values: Sequence[int]) -> int:
    trim = min(-(-len(values) // 4), (len(values) - 1) // 2)
    kept = sorted(values)[trim : len(values) - trim]
    return round(Fraction(sum(kept), len(kept)))
