"""The release of a round with differential privacy, where the coordinator sees each device's scalars (docs/privacy.md).

Each device has measured a frame of its own. What it has measured is an estimate of its gradient, and what that
estimate is along the directions of one frame, the same for all, is its part of the sum: as if it had measured these. A
part is clipped, and of the parts nothing leaves this module but their sum with noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.clipping import Part, clipped, noise_variance
from fwdllm_common.discrete_gaussian import discrete_gaussian
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_server.algorithm.accountant import noise_multiplier
from fwdllm_server.algorithm.complete import Span
from fwdllm_server.algorithm.measured import Measured, spans_of
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.algorithm.run import Run
from fwdllm_server.config.job_sections import Budget


class Release(NamedTuple):
    """The noised sum of all blocks, int64 ``[length]``, over the ``devices``, and what its directions are."""

    total: NDArray[np.int64]
    devices: frozenset[str]
    plans: tuple[BlockPlan, ...]


def release(run: Run, plans: Sequence[BlockPlan], collected: Mapping[str, Measured], budget: Budget) -> Release:
    """Sum what devices have measured, each within the budget's clip, and add noise."""
    shared = tuple(plan.for_all(plan.order, plan.order) for plan in plans)
    of_devices: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for block, measured in collected.items():
        for span in spans_of(measured):
            of_devices[span.device][block].append(span)
    sizes = [plan.wanted for plan in shared]
    total = np.zeros(sum(sizes), dtype=np.int64)
    for device in sorted(of_devices):
        parts = [Part(_along(run, plan, of_devices[device][plan.block]), plan.order) for plan in shared]
        total += np.concatenate(clipped(parts, budget.clip))
    share = noise_multiplier(budget) ** 2
    noise = [
        discrete_gaussian(noise_variance(share, budget.clip, plan.wanted, plan.order), plan.wanted) for plan in shared
    ]
    return Release(total + np.concatenate(noise), frozenset(of_devices), shared)


def _along(run: Run, plan: BlockPlan, spans: Sequence[Span]) -> NDArray[np.int64]:
    """Return what a device's estimate of a block's gradient is along the plan's directions, int64 ``[wanted]``."""
    block = run.layout.block(plan.block)
    directions = run.header.directions_of(block)
    assert isinstance(directions, OrthogonalDirections)
    if not spans:
        return np.zeros(plan.wanted, dtype=np.int64)
    seeds = np.concatenate([span.seeds for span in spans])
    values = np.concatenate([span.values for span in spans])
    estimate = directions.weighted_sum(seeds, values, block.start, block.stop) / len(seeds)
    along = np.arange(plan.wanted, dtype=np.uint64) + np.uint64(plan.first_seed)
    found: NDArray[np.int64] = np.rint(directions.products(along, estimate)).astype(np.int64)
    return found
