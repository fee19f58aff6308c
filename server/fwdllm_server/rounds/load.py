"""How much a device can be asked to do: its measured speed, what a direction costs, and the time there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from statistics import median_low

import numpy as np

from fwdllm_common.manifest import Manifest
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import efforts

MOST_TRUSTED = 16.0
"""No device is taken for more than so many times as fast as the median: a device's word is a stranger's."""
BELIEVED = 4.0
"""A device is taken for no more than so many times as fast as the coordinator has seen it: it also rests and waits."""
MOST_OF_ROUND = Fraction(1, 2)
"""Part of a round that one device of several is given at most, whatever it says of its speed."""
TIME_USED = 0.5
"""Part of the time to the deadline that work is given out for: speeds change, and a device has to fetch it."""


@dataclass(frozen=True)
class Load:
    """What some devices can do: example-passes a second by device, example-passes of a direction by block.

    ``measured`` is False while nobody's speed is known: then all are taken for equal, and nothing is known of time.
    """

    speeds: Mapping[str, float]
    costs: Mapping[str, float]
    measured: bool

    @classmethod
    def of(cls, context: RoundContext, devices: Iterable[str]) -> Load:
        """As the store knows it now; a device that nobody has measured counts as the median of the others."""
        asked = sorted(set(devices))
        costs = {plan.block: direction_cost(context.job.manifest, plan) for plan in context.round.plan}
        known = efforts.speeds(context.connection, context.job.id, asked)
        if not known:
            return cls(dict.fromkeys(asked, 1.0), costs, measured=False)
        most = {
            device: BELIEVED * seen for device, seen in efforts.seen(context.connection, context.job.id, asked).items()
        }
        middle = median_low(known.values())
        speeds = {
            device: min(known.get(device, middle), most.get(device, inf), MOST_TRUSTED * middle) for device in asked
        }
        return cls(speeds, costs, measured=True)

    def seconds(self, device: str, passes: float) -> float:
        """How long a device is expected to need for so many example-passes; 0 while nothing is known of time."""
        return passes / self.speeds[device] if self.measured else 0.0

    def manageable(self, device: str, passes: float, within_s: float) -> float:
        """The part of ``passes`` that a device can be asked to do within so many seconds, at most 1."""
        needed = self.seconds(device, passes)
        return min(1.0, TIME_USED * within_s / needed) if needed > 0 else 1.0


def direction_cost(manifest: Manifest, plan: BlockPlan) -> float:
    """Example-passes of one direction, counted as devices count them, for texts of half of the longest length."""
    costs = manifest.row_costs(np.array([manifest.max_tokens / 2]))
    first = manifest.stage_of(plan.block)
    passes = 2 if plan.central else 1
    return passes * plan.batch_size * float(costs[first:].sum() / costs.sum())
