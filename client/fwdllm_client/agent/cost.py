"""The cost of a computation on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds, passes of one example through the whole model, and joules (None if not measured)."""

    seconds: float
    example_passes: float
    joules: float | None = None


def total_cost(costs: Iterable[Cost]) -> Cost:
    """Return the cost of several computations; joules are those of the ones that measured them."""
    found = list(costs)
    joules = [cost.joules for cost in found if cost.joules is not None]
    return Cost(
        sum(cost.seconds for cost in found),
        sum(cost.example_passes for cost in found),
        sum(joules) if joules else None,
    )
