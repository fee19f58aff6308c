"""A gate that opens and closes by the device's conditions, with a settling time against flapping."""

from __future__ import annotations

import time
from collections.abc import Callable

from fwdllm_client.conditions.conditions import Conditions
from fwdllm_client.conditions.holds import Hold
from fwdllm_client.conditions.rules import Rules
from fwdllm_client.conditions.sensors import Sensors


class Gate:
    """Closes at the first reading that the ``rules`` forbid; opens after readings have been allowed for ``settle_s``.

    The very first reading needs no settling time.

    :param clock: seconds, monotonic.
    """

    def __init__(self, sensors: Sensors, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._sensors = sensors
        self._rules = rules
        self._clock = clock
        self._read_at = float("-inf")
        self._well_since: float | None = None
        self._holds: tuple[Hold, ...] = ()
        self.conditions = Conditions()
        """The last sensor reading."""

    def holds(self, max_age_s: float) -> tuple[Hold, ...]:
        """Return what forbids work, by a reading younger than ``max_age_s`` seconds."""
        now = self._clock()
        if now - self._read_at >= max_age_s:
            is_first, self._read_at = self._read_at == float("-inf"), now
            self.conditions = self._sensors.read()
            self._holds = self._judge(now, is_first=is_first)
        return self._holds

    def _judge(self, now: float, *, is_first: bool) -> tuple[Hold, ...]:
        was_open = not is_first and not self._holds
        found = self._rules.holds(self.conditions, working=was_open)
        if found:
            self._well_since = None
            return found
        if is_first or was_open:
            return ()
        self._well_since = now if self._well_since is None else self._well_since
        return () if now - self._well_since >= self._rules.settle_s else (Hold.SETTLING,)
