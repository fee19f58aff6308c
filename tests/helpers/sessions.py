"""What tests of an agent's session ask of a scripted coordinator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SEEDS = [1, 2, 3, 4, 5, 6, 50, 51, 52, 53]


def scalars(coordinator: Any, assignment_id: str = "a1") -> NDArray[np.float32]:
    """What the coordinator would store: the first scalar that came for each index."""
    found: dict[int, float] = {}
    for report in coordinator.reports:
        if report.assignment_id == assignment_id:
            for index, value in enumerate(report.derivatives, start=report.first_index):
                assert found.setdefault(index, value) == value
    assert list(found) == sorted(found)
    return np.array([found[index] for index in range(len(found))], dtype=np.float32)


def expected(job: Any) -> NDArray[np.float64]:
    """The derivatives of the quadratic loss, seed by seed."""
    values: list[float] = []
    for numbers, name in ((SEEDS[:6], "body"), (SEEDS[6:], "head")):
        block = job.layout.block(name)
        part = job.state.theta[block.slice]
        seeds = np.array(numbers, dtype=np.uint64)
        copies = job.header.directions.perturb(part, seeds, block.start, np.float32(1e-3))
        losses = (copies.astype(np.float64) ** 2).sum(axis=1) / 2
        values += ((losses - (part.astype(np.float64) ** 2).sum() / 2) / np.float64(np.float32(1e-3))).tolist()
    return np.array(values)


def told(coordinator: Any) -> list[list[tuple[str, str, str]]]:
    """For each check-in what it said of work that cannot be done."""
    return [
        [(each.assignment_id, each.code, each.message) for each in request.failures]
        for request in coordinator.check_ins
    ]


def hand_out(coordinator: Any, *answers: Any) -> None:
    """Answer the check-ins in turn; the last answer stays."""
    coordinator.on_check_in = lambda request: answers[min(len(coordinator.check_ins), len(answers)) - 1]
