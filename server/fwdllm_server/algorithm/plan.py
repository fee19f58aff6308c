"""What a round asks for in one block."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class BlockPlan:
    """Directions ``first_seed … first_seed + assigned − 1``, of which ``wanted`` are waited for.

    ``epsilon`` is the step along a direction, ``batch_size`` the rows that all directions of an assignment share,
    ``learning_rate`` that of the step the round ends with.
    """

    block: str
    first_seed: int
    wanted: int
    assigned: int
    epsilon: float
    batch_size: int
    learning_rate: float

    @property
    def end_seed(self) -> int:
        """One past the last seed."""
        return self.first_seed + self.assigned

    def extended(self, wanted: int, assigned: int) -> BlockPlan:
        """The same plan with more directions; those handed out already keep their seeds."""
        return replace(self, wanted=wanted, assigned=assigned)


def plans_to_json(plans: Iterable[BlockPlan]) -> str:
    """As stored with the round."""
    return json.dumps([asdict(plan) for plan in plans])


def plans_from_json(text: str) -> tuple[BlockPlan, ...]:
    """The inverse of :func:`plans_to_json`."""
    return tuple(BlockPlan(**item) for item in json.loads(text))
