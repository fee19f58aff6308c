"""What a round asks for in one block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import NamedTuple


class SeedRange(NamedTuple):
    """The seeds ``first``, ``first`` + 1, …, ``length`` of them."""

    first: int
    length: int


@dataclass(frozen=True)
class BlockPlan:
    """Directions by the ranges of their seeds, ascending, of which any ``wanted`` are waited for.

    ``epsilon`` is the step along a direction, ``central`` asks for the central difference, ``batch_size`` are the rows
    that all directions of an assignment share, ``learning_rate`` that of the step the round ends with. A direction is
    measured when ``devices_per_direction`` devices have measured it.
    """

    block: str
    ranges: tuple[SeedRange, ...]
    wanted: int
    epsilon: float
    batch_size: int
    learning_rate: float
    central: bool = False
    devices_per_direction: int = 1

    @property
    def seeds(self) -> list[int]:
        """Every seed, ascending."""
        return [seed for first, length in self.ranges for seed in range(first, first + length)]

    @property
    def first_seed(self) -> int:
        """The smallest seed."""
        return self.ranges[0].first

    @property
    def end_seed(self) -> int:
        """One past the largest seed."""
        return sum(self.ranges[-1])

    def extended(self, wanted: int, more_seeds: Sequence[int]) -> BlockPlan:
        """The same plan with more directions, whose seeds are above all others."""
        return replace(self, wanted=wanted, ranges=seed_ranges([*self.seeds, *more_seeds]))


def seed_ranges(seeds: Iterable[int]) -> tuple[SeedRange, ...]:
    """Ascending seeds as ranges."""
    ranges: list[list[int]] = []
    end = -1
    for seed in seeds:
        if seed == end:
            ranges[-1][1] += 1
        else:
            ranges.append([seed, 1])
        end = seed + 1
    return tuple(SeedRange(first, length) for first, length in ranges)


def plans_to_json(plans: Iterable[BlockPlan]) -> str:
    """As stored with the round."""
    return json.dumps([asdict(plan) for plan in plans])


@lru_cache(maxsize=16)  # the newest rounds' are asked for with every message
def plans_from_json(text: str) -> tuple[BlockPlan, ...]:
    """The inverse of :func:`plans_to_json`."""
    return tuple(
        BlockPlan(**{**item, "ranges": tuple(SeedRange(*each) for each in item["ranges"])}) for item in json.loads(text)
    )
