"""Robust aggregation: what a minority of devices that report wrong scalars can do to a round (docs/security.md).

Scalars: one counts for each direction, and none is so large that it outweighs the others. All of it is integers on
fixed-point values, so that the same scalars give the same ledger entry.

Reputations: devices whose scalars contradict the others' in many rounds are excluded. Two devices never measure the
same direction, so no scalar can be compared with another. But each scalar is the slope along its direction. Therefore
each device's scalars of a round have a correlation with the slopes that one line predicts: the optimiser's momentum,
along which the model moves. The sign of that correlation is the device's vote, and the median device's vote is the
round's. One round says little about one device. Many rounds distinguish a device that flips signs from a device whose
data differ from the others'. Votes are summed with weights that decay from round to round. The median device's sum is
the expected sum of an honest device, with a known standard deviation; a device that flips signs is expected to have
the opposite sum. A device is excluded if its sum is nearer to that than to zero, and further below the honest sum
than chance alone takes one device in 1,400.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import sqrt
from statistics import median
from typing import NamedTuple, TypeAlias

import numpy as np

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import complete
from fwdllm_server.algorithm.measured import Measured, scalars_of, spans_of
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.algorithm.run import Run, reference

RECENT = 5
"""Rounds whose scales a block's running scale is the median of: one round that is lies to its half moves it little."""
_DECAY = 0.97
"""The weight of a vote one round later."""
_LEFT_OUT = -1.0
"""Standard deviations of contradiction below which no device is excluded."""
_MIRRORED = -0.5
"""No device is excluded above this multiple of the honest sum; a device that flips signs is expected at −1."""
_SURE = 3.2
"""No device is excluded within so many standard deviations below the honest sum: chance exceeds them once in 1,400."""
_HEARD = 2.0
"""The least variance of the votes of a device that is excluded: that of three rounds, since one says little."""
_AGREED = 0.5
"""Standard deviations of agreement that the median device must have before any device is excluded."""
_COORDINATES = 65_536
"""Coordinates of a block that the line has at most: enough for a vote, and little work beside the directions' sum."""

Scales: TypeAlias = Mapping[str, Sequence[int]]
"""The scales of the last :data:`RECENT` rounds of each block, the oldest first, in fixed point."""


class Reputation(NamedTuple):
    """A device's votes of all rounds, ``votes`` in standard deviations of one round's, ``rounds`` their variance."""

    votes: float = 0.0
    rounds: float = 0.0

    @property
    def deviations(self) -> float:
        """How sure it is that the device agrees with the others (above 0) or contradicts them."""
        return self.votes / sqrt(self.rounds) if self.rounds else 0.0

    @property
    def weight(self) -> float:
        """The sum of the weights of its votes, of which ``rounds`` are the squares."""
        squared = max(0.0, 1 - (1 - _DECAY**2) * self.rounds)  # of what a vote before its first would weigh
        return (1 - sqrt(squared)) / (1 - _DECAY)

    def after(self, vote: float) -> Reputation:
        """With one round more."""
        return Reputation(_DECAY * self.votes + vote, _DECAY**2 * self.rounds + 1)


Reputations: TypeAlias = Mapping[str, Reputation]


# a round


def restrained(measured: Measured, devices: int, recent: Sequence[int], clip: float) -> Measured:
    """Return one scalar for each direction that ``devices`` devices have measured, by ascending seed, within bounds.

    ``recent`` are the block's scales of earlier rounds. No scalar is above ``clip`` times the running scale, and where
    each direction is measured once, no device is louder than the scale as a whole; a ``clip`` of 0 bounds nothing.
    Spans stay as many as they are.
    """
    if spans := spans_of(measured):
        return complete.restrained(spans, running_scale(recent, complete.scale_of(spans)), clip) if clip else spans
    ordered = by_direction(scalars_of(measured), devices)
    if not clip:
        return ordered
    scale = running_scale(recent, scale_of(ordered))
    return clipped(rescale_devices(ordered, scale) if devices == 1 else ordered, int(clip * scale))


def is_measured(measured: Measured, devices: int) -> bool:
    """Return whether any direction has been measured by ``devices`` devices."""
    return bool(spans_of(measured)) or directions_measured(scalars_of(measured), devices) > 0


def scales_after(plans: Sequence[BlockPlan], measured: Mapping[str, Measured], recent: Scales) -> Scales:
    """Return the scales as of a round that commits these scalars of each block."""
    now = {}
    for plan in plans:
        if spans := spans_of(measured[plan.block]):
            now[plan.block] = complete.scale_of(spans)
        elif merged := by_direction(scalars_of(measured[plan.block]), plan.devices_per_direction):
            now[plan.block] = scale_of(merged)
    return {**recent, **{block: [*recent.get(block, ()), scale][-RECENT:] for block, scale in now.items()}}


def reputations_after(
    run: Run,
    plans: Sequence[BlockPlan],
    measured: Mapping[str, Measured],
    state: ModelState,
    last: LedgerEntry | None,
    before: Reputations,
) -> Reputations:
    """Return the reputations as of a round, of the devices that vote in it; ``before`` are those of earlier rounds.

    They vote where each direction is measured once; the middle of several devices needs no vote. The line is the
    momentum at ``state``, or else the gradient of ``last``, the entry that led to ``state``.
    """
    found: dict[str, Reputation] = {}
    for plan in plans:
        if not run.spec.robust.clip or plan.devices_per_direction > 1:
            continue
        block = run.layout.block(plan.block)
        line = reference(run, block, state, last, "momentum")
        if line is None:
            line = reference(run, block, state, last, "gradient")
        if line is not None:
            known, directions = {**before, **found}, run.header.directions_of(block)
            if isinstance(directions, OrthogonalDirections):
                found |= counted(complete.votes(directions, spans_of(measured[plan.block]), line), known)
            else:
                found |= update_reputations(directions, scalars_of(measured[plan.block]), line, block, known)
    return found


def exclude_outliers(measured: Measured, reputations: Reputations) -> Measured:
    """Return the scalars without those of devices that contradict the others."""
    return without(measured, contradicting(reputations))


def without(measured: Measured, devices: Collection[str]) -> Measured:
    """Return the scalars of all other devices."""
    spans = [span for span in spans_of(measured) if span.device not in devices]
    return spans or [scalar for scalar in scalars_of(measured) if scalar.device not in devices]


# scalars


def by_direction(scalars: Sequence[Scalar], devices: int) -> Sequence[Scalar]:
    """Return one scalar for each direction that ``devices`` devices have measured, by ascending seed.

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
    """Return the number of directions that have been measured by ``devices`` devices."""
    return len(scalars) if devices == 1 else sum(len(values) >= devices for values in _values(scalars).values())


def scale_of(scalars: Sequence[Scalar]) -> int:
    """Return the scale: the median over devices of the median magnitude of each, so that each device has one vote."""
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


# reputations


def update_reputations(
    directions: Directions, scalars: Sequence[Scalar], line: Float32Vector, block: Block, before: Reputations
) -> Reputations:
    """Return the reputations of the devices that vote in this round, as of it.

    ``line`` is float32 ``[block size]``; nobody votes where it is zero.
    """
    part = _loudest(line)
    target = line[part]
    if not target.any():
        return {}
    slopes: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for scalar in scalars:
        vector = directions.vector(scalar.seed, block.start + part.start, block.start + part.stop)
        slopes[scalar.device].append((scalar.value, float(vector @ target)))
    votes = {device: _correlation(found) for device, found in slopes.items()}
    return counted(votes, before)


def counted(votes: Mapping[str, float], before: Reputations) -> Reputations:
    """Return the reputations with these votes, of which the median device's sign is the round's."""
    sign = np.sign(median(votes.values())) if votes else 0.0
    return {device: before.get(device, Reputation()).after(float(sign * vote)) for device, vote in votes.items()}


def contradicting(reputations: Reputations) -> frozenset[str]:
    """Return the devices that contradict the others, if the others agree at all."""
    if not reputations or median(reputation.deviations for reputation in reputations.values()) < _AGREED:
        return frozenset()
    heard = {device: reputation for device, reputation in reputations.items() if reputation.rounds >= _HEARD}
    vote = median(reputation.votes / reputation.weight for reputation in heard.values()) if heard else 0.0
    return frozenset(device for device, found in heard.items() if found.deviations <= _bound(found, vote))


def _bound(reputation: Reputation, vote: float) -> float:
    """Return the deviations at which a device contradicts others, whose mean ``vote`` in a round is given."""
    honest = vote * reputation.weight / sqrt(reputation.rounds)
    return min(_LEFT_OUT, _MIRRORED * honest, honest - _SURE)


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


def _correlation(slopes: Sequence[tuple[int, float]]) -> float:
    """In standard deviations of what chance makes: normal with variance 1 where there is none."""
    said, predicted = np.array(slopes, dtype=np.float64).T
    size = float(np.linalg.norm(said) * np.linalg.norm(predicted))
    return float(said @ predicted) / size * sqrt(len(slopes)) if size else 0.0


def _loudest(line: Float32Vector) -> slice:
    """Return the part of the line that says most."""
    starts = range(0, len(line), _COORDINATES)
    start = max(starts, key=lambda first: float(np.linalg.norm(line[first : first + _COORDINATES])))
    return slice(start, min(start + _COORDINATES, len(line)))
