"""How much each device measures where a block leaves it open: ``directions = "auto"``, ``batch_size = "auto"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.manifest import Manifest
from fwdllm_common.orthogonal import MAX_ORDER, order_for
from fwdllm_server.config.job_sections import BlockSection, RoundsSection

BYTES_OF_A_SCALAR = 2
BYTES_OF_A_MASKED_SCALAR = 8
LEAST_ROWS = 16
"""Rows of a batch below which directions give way, not rows."""
MOST_ROWS = 256
"""Rows of a device that are worked with at most; each costs a whole pass once."""
WORTH_IT = 4
"""A block is measured by orthogonal directions where a device can measure one in so many of a frame, or more."""


class Measurement(NamedTuple):
    """Directions that each device measures, and on how many rows at most."""

    directions: int
    rows: int


class Sizes(NamedTuple):
    """Directions of a block's round, directions of each device where it has its own (else 0), and rows of a batch."""

    directions: int
    per_device: int
    rows: int


def sizes(
    section: BlockSection,
    size: int,
    share: float,
    rounds: RoundsSection,
    step: int,
    rows_at_hand: int,
    masked: bool = False,
) -> Sizes:
    """Return how much a round of a block measures: what its section says, or what follows from the budgets.

    Arguments are those of :func:`measurement`.
    """
    fixed_rows = None if section.batch_size == "auto" else section.batch_size
    found = measurement(size, share, rounds, step, rows_at_hand, fixed_rows, masked)
    if section.directions == "auto":
        return Sizes(min(found.directions * rounds.max_devices, MAX_DIRECTIONS), found.directions, found.rows)
    return Sizes(section.directions, 0, found.rows)


def measurement(
    size: int,
    share: float,
    rounds: RoundsSection,
    step: int,
    rows_at_hand: int = 0,
    batch_size: int | None = None,
    masked: bool = False,
) -> Measurement:
    """Return what each device is asked to measure of a block of ``size`` coordinates.

    A direction on one row costs the ``share`` of a pass. Directions come first: as many as a complete frame has, or as
    the bytes hold, and then as many rows as the passes leave, all that are at hand (0: unknown) if there are enough;
    with fewer than :data:`LEAST_ROWS` directions give way. The first steps, whose gradients are large, do with fewer
    rows: twice as many in each as in the one before. A ``batch_size`` fixes the rows. Scalars that
    are ``masked`` have more bytes.
    """
    most = min(rows_at_hand or MOST_ROWS, MOST_ROWS, LEAST_ROWS << min(step, 8))
    scalars = rounds.bytes_budget // (BYTES_OF_A_MASKED_SCALAR if masked else BYTES_OF_A_SCALAR)
    directions = max(1, min(_complete(size), scalars, MAX_DIRECTIONS))
    affordable = int(rounds.passes_budget / (share * directions))
    rows = batch_size or max(min(LEAST_ROWS, most), min(most, affordable))
    return Measurement(max(1, min(directions, int(rounds.passes_budget / (share * rows)))), rows)


def is_worth_a_frame(size: int, share: float, rounds: RoundsSection, masked: bool = False) -> bool:
    """Whether devices can measure so much of a block that its directions are orthogonal ones."""
    if size >= MAX_ORDER:
        return False
    found = measurement(size, share, rounds, step=1, batch_size=LEAST_ROWS, masked=masked)
    return WORTH_IT * found.directions >= order_for(size)


def direction_shares(manifest: Manifest) -> Mapping[str, float]:
    """Return a direction's cost per block on one row, as a share of a pass, for half of the longest text."""
    costs = manifest.row_costs(np.array([manifest.max_tokens / 2]))
    stages = {name: list(manifest.direction_stages(name)) for name in manifest.layout.blocks}
    return {name: float(costs[each].sum() / costs.sum()) for name, each in stages.items()}


def _complete(size: int) -> int:
    return order_for(size) if size < MAX_ORDER else size
