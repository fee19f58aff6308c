"""The coordinator's clock, which does not jump when the machine's clock is set: deadlines of rounds stay."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

TOLERATED_S = 60.0
"""The difference of two clocks, in seconds, up to which no warning is logged."""

_log = structlog.get_logger()


def _elapsed() -> float:
    """Return monotonic seconds; they include the time that the machine sleeps, where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """The seconds since 1970: the machine's time at the start plus the monotonic time since then."""

    def __init__(self, machine: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed) -> None:
        self._machine = machine
        self._elapsed = elapsed
        self._began_at = machine() - elapsed()
        self._logged_s = 0.0

    def __call__(self) -> float:
        """Return the seconds since 1970, and log a warning if the machine's clock was set."""
        now = self._began_at + self._elapsed()
        off = self._machine() - now
        if abs(off - self._logged_s) > TOLERATED_S:
            _log.warning(
                "the machine's clock was set; deadlines keep the old time until the coordinator is restarted",
                seconds=round(off - self._logged_s),
            )
            self._logged_s = off
        return now
