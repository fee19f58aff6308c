"""The cost of a computation on the device."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds, passes of one example through the whole model, and joules (None if not measured)."""

    seconds: float
    example_passes: float
    joules: float | None = None
