"""What some computing cost the device."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds, passes of one example through the whole model, and joules, None if they were not measured."""

    seconds: float
    example_passes: float
    joules: float | None = None
