"""What a round asks for in one block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from fwdllm_common.fixed_point import MAX_ORTHOGONAL_DIRECTIONS
from fwdllm_common.seeds import ranges_of, seeds_in


@dataclass(frozen=True)
class BlockPlan:
    """Directions by the ranges of their seeds, ascending, of which any ``wanted`` are waited for.

    ``epsilon`` is the step along a direction, ``central`` asks for the central difference, ``batch_size`` are the rows
    that all directions of an assignment share, ``learning_rate`` that of the step the round ends with. A direction is
    measured when ``devices_per_direction`` devices have measured it.

    Orthogonal directions come in frames of ``order`` seeds, of which the range names more than there are devices: each
    has a frame of its own and measures its first ``per_device`` directions, on the same rows in every round.

    Directions of a plan that is ``shared`` are measured by all devices, whose scalars are summed before they are seen.
    """

    block: str
    ranges: tuple[range, ...]
    wanted: int
    epsilon: float
    batch_size: int
    learning_rate: float
    central: bool = False
    devices_per_direction: int = 1
    order: int = 0
    per_device: int = 0
    shared: bool = False

    @property
    def seeds(self) -> list[int]:
        """Every seed, ascending."""
        return seeds_in(self.ranges)

    @property
    def first_seed(self) -> int:
        """The smallest seed."""
        return self.ranges[0].start

    @property
    def end_seed(self) -> int:
        """One past the largest seed."""
        return self.ranges[-1].stop

    def frame(self, index: int) -> range:
        """Return the directions that a device measures of a frame."""
        first = self.first_seed + index * self.order
        return range(first, first + self.per_device)

    @property
    def frames(self) -> int:
        """How many frames there are to measure."""
        return len(self.ranges[0]) // self.order if self.order else 0

    def in_frames(self, order: int, per_device: int, devices: int) -> BlockPlan:
        """Return the same plan in frames, enough of them for so many devices, and so few that their sum stays exact."""
        each = min(per_device, order, MAX_ORTHOGONAL_DIRECTIONS // devices)
        count = min(len(self.ranges[0]) // order, MAX_ORTHOGONAL_DIRECTIONS // each)
        return replace(
            self, ranges=(self.ranges[0][: count * order],), order=order, per_device=each, wanted=each * devices
        )

    def for_all(self, order: int, count: int) -> BlockPlan:
        """Return the same plan with the first ``count`` directions for every device; an ``order`` of 0 is no frame."""
        first = self.first_seed
        ranges = (range(first, first + count),)
        return replace(self, ranges=ranges, order=order, per_device=count, wanted=count, shared=True)

    def for_devices(self, directions: int) -> BlockPlan:
        """Return the same plan, of which so many directions of frames are waited for."""
        return replace(self, wanted=directions)

    def index_of(self, seed: int) -> int:
        """Return the frame of a seed."""
        return (seed - self.first_seed) // self.order

    def extended(self, wanted: int, more_seeds: Sequence[int]) -> BlockPlan:
        """Return the same plan with more directions, whose seeds are above all others."""
        return replace(self, wanted=wanted, ranges=ranges_of([*self.seeds, *more_seeds]))


def plans_to_json(plans: Iterable[BlockPlan]) -> str:
    """Return the plans as stored with the round; a range is its first seed and its length."""
    return json.dumps([{**asdict(plan), "ranges": [(each.start, len(each)) for each in plan.ranges]} for plan in plans])


@lru_cache(maxsize=16)  # the newest rounds' are asked for with every message
def plans_from_json(text: str) -> tuple[BlockPlan, ...]:
    """Return the inverse of :func:`plans_to_json`."""
    return tuple(
        BlockPlan(**{**item, "ranges": tuple(range(first, first + count) for first, count in item["ranges"])})
        for item in json.loads(text)
    )
