"""Devices whose scalars contradict the others', round after round (docs/security.md).

Two devices never measure the same direction, so no scalar can be compared with another. But each is the slope along its
direction, and so each device's scalars of a round have a correlation with the slopes that one line predicts: the
optimiser's momentum, along which the model moves. Its sign is a vote, and the median device's is the round's. One
round says little of one device; many rounds tell one that flips signs from one whose data are unlike the others'.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple, TypeAlias

import numpy as np

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar
from fwdllm_common.layout import Block, Float32Vector

FEWEST = 8
"""Scalars of a device in a round from which on it votes."""

_DECAY = 0.9
"""What a vote counts a round later."""
_LEFT_OUT = -1.0
"""Standard deviations of contradiction from which on a device is left out."""
_HEARD = 2.0
"""The least variance of a device's votes with which it is left out: that of three rounds, since one says little."""
_AGREED = 0.5
"""Standard deviations of agreement that the median device must have before any is."""
_COORDINATES = 65_536
"""Of a block, that are looked at: enough to vote on, and little work beside the sum of the directions."""


class Standing(NamedTuple):
    """A device's votes of all rounds, ``votes`` in standard deviations of one round's, ``rounds`` their variance."""

    votes: float = 0.0
    rounds: float = 0.0

    @property
    def deviations(self) -> float:
        """How sure it is that the device agrees with the others (above 0) or contradicts them."""
        return self.votes / sqrt(self.rounds) if self.rounds else 0.0

    def after(self, vote: float) -> Standing:
        """With one round more."""
        return Standing(_DECAY * self.votes + vote, _DECAY**2 * self.rounds + 1)


Standings: TypeAlias = Mapping[str, Standing]


def voted(
    directions: Directions, scalars: Sequence[Scalar], line: Float32Vector, block: Block, before: Standings
) -> Standings:
    """The standings of the devices that vote in this round, as of it.

    ``line`` is float32 ``[block size]``; nobody votes where it is zero.
    """
    part = _loudest(line)
    target = line[part]
    if not target.any():
        return {}
    measured = Counter(scalar.device for scalar in scalars)
    slopes: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for scalar in scalars:
        if measured[scalar.device] >= FEWEST:
            vector = directions.vector(scalar.seed, block.start + part.start, block.start + part.stop)
            slopes[scalar.device].append((scalar.value, float(vector @ target)))
    votes = {device: _correlation(found) for device, found in slopes.items()}
    return counted(votes, before)


def counted(votes: Mapping[str, float], before: Standings) -> Standings:
    """The standings with these votes, of which the median device's sign is the round's."""
    sign = np.sign(median(votes.values())) if votes else 0.0
    return {device: before.get(device, Standing()).after(float(sign * vote)) for device, vote in votes.items()}


def contradicting(standings: Standings) -> frozenset[str]:
    """The devices that contradict the others, if the others agree at all."""
    if not standings or median(standing.deviations for standing in standings.values()) < _AGREED:
        return frozenset()
    return frozenset(
        device
        for device, standing in standings.items()
        if standing.rounds >= _HEARD and standing.deviations <= _LEFT_OUT
    )


def believed(scalars: Sequence[Scalar], standings: Standings) -> Sequence[Scalar]:
    """The scalars without those of devices that contradict the others."""
    left_out = contradicting(standings)
    return [scalar for scalar in scalars if scalar.device not in left_out] if left_out else scalars


def _correlation(slopes: Sequence[tuple[int, float]]) -> float:
    """In standard deviations of what chance makes: normal with variance 1 where there is none."""
    said, predicted = np.array(slopes, dtype=np.float64).T
    size = float(np.linalg.norm(said) * np.linalg.norm(predicted))
    return float(said @ predicted) / size * sqrt(len(slopes)) if size else 0.0


def _loudest(line: Float32Vector) -> slice:
    """The part of the line that says most."""
    starts = range(0, len(line), _COORDINATES)
    start = max(starts, key=lambda first: float(np.linalg.norm(line[first : first + _COORDINATES])))
    return slice(start, min(start + _COORDINATES, len(line)))
