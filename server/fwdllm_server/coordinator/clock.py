"""The coordinator's clock: setting that of the machine moves no deadline of a round that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

TOLERATED_S = 60.0
"""Seconds by which clocks may differ and nobody hears of it."""

_log = structlog.get_logger()


def _elapsed() -> float:
    """Seconds that pass evenly, those included that the machine sleeps, where it counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Seconds since 1970: what the machine's clock said at the start, and what has passed since."""

    def __init__(self, machine: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed) -> None:
        self._machine = machine
        self._elapsed = elapsed
        self._began_at = machine() - elapsed()
        self._heard_of_s = 0.0

    def __call__(self) -> float:
        """Now; the log hears of it when the machine's clock was set."""
        now = self._began_at + self._elapsed()
        off = self._machine() - now
        if abs(off - self._heard_of_s) > TOLERATED_S:
            _log.warning(
                "the machine's clock was set; what is under way goes by the old one, a restart takes the new one",
                seconds=round(off - self._heard_of_s),
            )
            self._heard_of_s = off
        return now
