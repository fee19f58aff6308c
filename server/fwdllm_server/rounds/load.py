"""Estimate how much work a device can do: from its speed, the cost of a direction and the available time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from statistics import median_low

import numpy as np

from fwdllm_common.manifest import Manifest
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.store import job_devices

MOST_OVER_MEDIAN = 16.0
"""Upper bound of a device's assumed speed, as a multiple of the median: devices' reports are not trusted."""
MOST_OVER_OBSERVED = 4.0
"""Upper bound of a device's assumed speed, as a multiple of the speed that the coordinator has observed.

The observed speed is lower than the real one, because it includes pauses and waiting.
"""
MOST_OF_ROUND = Fraction(1, 2)
"""Largest fraction of a round for one of several devices, whatever speed it reports."""
TIME_USED = 0.5
"""Fraction of the time to the deadline that assigned work may take: speeds vary, and fetching takes time."""


@dataclass(frozen=True)
class Load:
    """Speeds of devices, in example-passes a second, and costs of a direction by block, in example-passes.

    ``measured`` is False while no speed is known. All devices then count as equal, and durations are unknown.
    """

    speeds: Mapping[str, float]
    costs: Mapping[str, float]
    measured: bool

    @classmethod
    def of(cls, context: RoundContext, devices: Iterable[str]) -> Load:
        """Read the speeds from the store. A device without a measurement counts as the median of the others."""
        asked = sorted(set(devices))
        costs = {plan.block: direction_cost(context.job.manifest, plan) for plan in context.round.plan}
        known = job_devices.speeds(context.connection, context.job.id, asked)
        if not known:
            return cls(dict.fromkeys(asked, 1.0), costs, measured=False)
        most = {
            device: MOST_OVER_OBSERVED * seen
            for device, seen in job_devices.seen(context.connection, context.job.id, asked).items()
        }
        middle = median_low(known.values())
        speeds = {
            device: min(known.get(device, middle), most.get(device, inf), MOST_OVER_MEDIAN * middle) for device in asked
        }
        return cls(speeds, costs, measured=True)

    def seconds(self, device: str, passes: float) -> float:
        """Return the seconds that a device is expected to need for ``passes`` example-passes; 0 if unknown."""
        return passes / self.speeds[device] if self.measured else 0.0

    def manageable(self, device: str, passes: float, within_s: float) -> float:
        """Return the fraction of ``passes`` example-passes, at most 1, that a device can do in ``within_s`` seconds."""
        needed = self.seconds(device, passes)
        return min(1.0, TIME_USED * within_s / needed) if needed > 0 else 1.0


def direction_cost(manifest: Manifest, plan: BlockPlan) -> float:
    """Return the example-passes of one direction, counted as devices do, for texts of half the largest length."""
    costs = manifest.row_costs(np.array([manifest.max_tokens / 2]))
    first = manifest.stage_of(plan.block)
    passes = 2 if plan.central else 1
    return passes * plan.batch_size * float(costs[first:].sum() / costs.sum())
