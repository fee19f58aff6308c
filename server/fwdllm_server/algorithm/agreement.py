"""Devices whose scalars contradict the others', round after round (docs/security.md).

Two devices never measure the same direction, so no scalar can be compared with another. But each is the slope along its
direction, and so each device's scalars of a round have a correlation with the slopes that one line predicts: the
optimiser's momentum, along which the model moves. Its sign is a vote, and the median device's is the round's. One
round says little of one device; many rounds tell one that flips signs from one whose data are unlike the others'.

Votes add up, each counting less than the one after it. The median device's sum is what an honest one's is expected to
be, with a standard deviation that is known, and one that flips signs is expected to have the opposite: who is nearer to
that than to nothing, and further from the honest than chance takes one in 1,400, is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple, TypeAlias

import numpy as np

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar
from fwdllm_common.layout import Block, Float32Vector

_DECAY = 0.97
"""What a vote counts a round later."""
_LEFT_OUT = -1.0
"""Standard deviations of contradiction below which no device is left out."""
_MIRRORED = -0.5
"""Part of what one that flips signs is expected to have, below which likewise."""
_SURE = 3.2
"""Standard deviations below the honest, within which likewise: chance alone goes further once in 1,400."""
_HEARD = 2.0
"""The least variance of a device's votes with which it is left out: that of three rounds, since one says little."""
_AGREED = 0.5
"""Standard deviations of agreement that the median device must have before any is."""
_COORDINATES = 65_536
"""Of a block, that are looked at: enough to vote on, and little work beside the sum of the directions."""


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


def exclude_outliers(scalars: Sequence[Scalar], reputations: Reputations) -> Sequence[Scalar]:
    """Return the scalars without those of devices that contradict the others."""
    left_out = contradicting(reputations)
    return [scalar for scalar in scalars if scalar.device not in left_out] if left_out else scalars


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
